package api

// GC is what there is of clones, builds and their shims on the daemon's host, and
// what of it nobody has.
type GC struct {
	Schema  int      `json:"schema"`
	Removed bool     `json:"removed"` // the orphans were removed; otherwise they were only looked for
	Kinds   []GCKind `json:"kinds"`
	Start   GCStart  `json:"start"` // what the daemon did when it started
}

// GCKind is one sort of thing: containers, mounts …
type GCKind struct {
	Kind    string   `json:"kind"`
	Used    int      `json:"used"`             // how many somebody has
	Orphans []string `json:"orphans"`          // the names of the others
	Errors  []string `json:"errors,omitempty"` // what kept them from being listed or removed
}

// GCStart is how a daemon took up what an earlier one had left.
type GCStart struct {
	Adopted int      `json:"adopted"` // clones that run on
	Pool    int      `json:"pool"`    // clones that wait in the pool
	Removed int      `json:"removed"` // clones that were expired, dead or unfinished
	Orphans int      `json:"orphans"` // snapshots, networks and files of clones that were no more
	Builds  []string `json:"builds"`  // builds that were cut off and are undone
	Goldens []string `json:"damaged"` // goldens without their snapshot: left as they are
	Kinds   []GCKind `json:"kinds"`   // what else there was; its orphans were removed
}
