package manager

// nameOf is a name of a clone: each user has names of his own, so that they tell
// nothing about others' clones and are not in their way.
type nameOf struct {
	uid  int
	name string
}

// name returns what a clone is found by beside its id. The caller holds
// Manager.mu, or nobody else has the clone yet.
func (c *clone) name() nameOf { return nameOf{c.rec.OwnerUID, c.rec.Name} }
