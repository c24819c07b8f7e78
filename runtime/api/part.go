package api

import "io"

// Kinds of the parts of a build request: the form names of the multipart body.
const (
	PartSpec    = "spec"     // the BuildRequest as JSON; comes first
	PartInit    = "init"     // a script; in the order of the parts
	PartInitTar = "init-tar" // a tar of a directory with scripts and what they read; in the order of the parts
	PartDump    = "dump"     // a dump that is one file
	PartDumpTar = "dump-tar" // a tar of a directory-format dump
	PartDirTar  = "dir-tar"  // a tar of a data directory
	PartArchive = "archive"  // an image archive (docker save, OCI layout)
	PartMask    = "mask"     // a script; in the order of the parts
)

// Parts lists the kinds of the parts after the spec.
var Parts = []string{PartInit, PartInitTar, PartDump, PartDumpTar, PartDirTar, PartArchive, PartMask}

// Part is one file of a build request, as the daemon takes it in.
type Part struct {
	Kind string // form name
	Name string // file name, as sent: not trusted
	io.Reader
}

// Types of a BuildEvent.
const (
	EventID       = "id"
	EventStep     = "step"
	EventProgress = "progress"
	EventLog      = "log"
	EventWarning  = "warning"
	EventExec     = "exec"
	EventDone     = "done"
	EventError    = "error"
)

// Lease is the first line of the answer to GET /v1/leases/{id}: the lease is held. Empty lines follow every 15 seconds,
// and an ErrorBody if the lease is lost. An answer that breaks off without one says that the daemon stops, or is gone:
// the lease is not lost, and is to be taken again.
type Lease struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
}
