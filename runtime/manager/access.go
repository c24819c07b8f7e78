package manager

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/api/server"
)

// nameOf is a name of a clone: each user has names of his own, so that they tell
// nothing about others' clones and are not in their way.
type nameOf struct {
	uid  int
	name string
}

// name returns what a clone is found by beside its id. The caller holds
// Manager.mu, or nobody else has the clone yet.
func (c *clone) name() nameOf { return nameOf{c.rec.OwnerUID, c.rec.Name} }

// sees says whether the sender of ctx's request may know of a clone, and so
// do with it what its owner may. The daemon itself, whose contexts are of no
// request, may.
func sees(ctx context.Context, owner int) bool {
	who, known := server.CallerOf(ctx)
	return !known || who.May(owner)
}
