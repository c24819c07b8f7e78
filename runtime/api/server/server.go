// Package server serves ctrsnapd's API on a listener. It translates between HTTP and
// the interfaces below and decides nothing itself.
package server

import (
	"context"
	"io"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Clones is the part of the daemon that serves clones. id is an id, a unique
// prefix of one, or a name, of a clone that the caller may
// know of: others are not found.
type Clones interface {
	Create(ctx context.Context, caller access.Caller, req api.CloneRequest) (api.CloneResponse, error)
	Get(ctx context.Context, caller access.Caller, id string) (api.Clone, error)
	List(ctx context.Context, caller access.Caller, labels map[string]string) ([]api.Clone, error)
	// Remove ends a clone; one that is protected only with force.
	Remove(ctx context.Context, caller access.Caller, id string, force bool) error
	Extend(ctx context.Context, caller access.Caller, id string, req api.ExtendRequest) (api.Clone, error)
	Restart(ctx context.Context, caller access.Caller, id string) (api.Clone, error)
	// Hold takes a lease until ctx ends; then its clones are removed, unless
	// the daemon itself is stopping (context.Cause is [runtime.ErrStopping]). It calls held once the lease is taken.
	Hold(ctx context.Context, caller access.Caller, lease string, held func()) error
	// Logs writes the last tail lines (all if negative), and with follow what
	// comes until ctx ends or the clone does.
	Logs(ctx context.Context, caller access.Caller, id string, tail int, follow bool, w io.Writer) error
	Exec(ctx context.Context, caller access.Caller, id string, req api.ExecRequest, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error)
	Client(ctx context.Context, caller access.Caller, id string, args []string) (api.ClientRequest, error)
}

// Goldens is the part of the daemon that keeps and builds goldens. The
// caller finds only those that they may read.
type Goldens interface {
	List(ctx context.Context, caller access.Caller, name string) ([]api.Golden, error)
	Get(ctx context.Context, caller access.Caller, ref string) (api.Golden, error)
	Promote(ctx context.Context, caller access.Caller, ref string) (api.Golden, error)
	Rollback(ctx context.Context, caller access.Caller, name string) (api.Golden, error)
	// Verify compares a golden with the digest of what was built.
	Verify(ctx context.Context, caller access.Caller, ref string) (api.Golden, error)
	Remove(ctx context.Context, caller access.Caller, ref string) error
	// Prune removes versions that nobody wants any more, and returns them.
	Prune(ctx context.Context, caller access.Caller, req api.PruneRequest) ([]api.Golden, error)
	// SetAccess says who may do what with all versions of a name.
	SetAccess(ctx context.Context, caller access.Caller, name string, req api.AccessRequest) (api.Golden, error)
	// Build builds a golden. next returns the parts of the request one after
	// the other and io.EOF at the end; events takes what happens; it ends when
	// ctx does (the caller is gone) and leaves nothing behind unless it
	// returns nil. existed says that nothing had to be built.
	Build(ctx context.Context, caller access.Caller, req api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (g api.Golden, existed bool, err error)
	// Answer passes on how a command ended that an event "exec" of the caller's build asked for.
	Answer(ctx context.Context, caller access.Caller, build string, r api.HostResult) error
}

// Pools is the part of the daemon that keeps clones ahead. golden is a name.
type Pools interface {
	Pools(ctx context.Context, caller access.Caller) ([]api.Pool, error)
	SetPool(ctx context.Context, caller access.Caller, golden string, req api.PoolRequest) (api.Pool, error)
}

// Host is the part of the daemon that knows about the machine and itself.
type Host interface {
	Version() api.Version
	Doctor(ctx context.Context, caller access.Caller) (api.Doctor, error)
	// GC looks for what nobody has, and removes it if it is told to. It is for administrators.
	GC(ctx context.Context, caller access.Caller, remove bool) (api.GC, error)
	// Fix mends what it can of what Doctor finds, and says what is left and what it did. It is for
	// administrators.
	Fix(ctx context.Context, caller access.Caller) (api.Doctor, error)
}
