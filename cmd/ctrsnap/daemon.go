package main

import (
	"context"
	"io"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// daemon is what the verbs want of ctrsnapd. Each verb takes the part it needs.
type daemon interface {
	cloner
	clones
	execer
	goldens
	builder
	pools
	nets
	engines
	host
}

// cloner makes clones and holds those that live by a connection.
type cloner interface {
	Clone(ctx context.Context, req api.CloneRequest) (api.CloneResponse, error)
	HoldLease(ctx context.Context, id string) (lease, error)
	RemoveClone(ctx context.Context, id string) error
	ForceRemoveClone(ctx context.Context, id string) error
	ExtendClone(ctx context.Context, id string, ttl time.Duration) (api.Clone, error)
	UpdateClone(ctx context.Context, id string, req api.ExtendRequest) (api.Clone, error)
}

// lease is held until it is closed or lost.
type lease interface {
	Done() <-chan struct{}
	Err() error
	Close()
}

// clones tells about clones that exist.
type clones interface {
	Clones(ctx context.Context, labels map[string]string) ([]api.Clone, error)
	CloneByID(ctx context.Context, id string) (api.Clone, error)
	Logs(ctx context.Context, id string, tail int, follow bool, w io.Writer) error
}

// execer runs commands in clones.
type execer interface {
	Exec(ctx context.Context, id string, req api.ExecRequest, stdin io.Reader, stdout, stderr io.Writer, resize <-chan api.WindowSize) (int, error)
	ClientCommand(ctx context.Context, id string, args []string) (api.ClientRequest, error)
}

type goldens interface {
	Goldens(ctx context.Context, name string) ([]api.Golden, error)
	Golden(ctx context.Context, ref string) (api.Golden, error)
	Promote(ctx context.Context, ref string) (api.Golden, error)
	Rollback(ctx context.Context, name string) (api.Golden, error)
	Verify(ctx context.Context, ref string) (api.Golden, error)
	SetGoldenAccess(ctx context.Context, name string, req api.AccessRequest) (api.Golden, error)
	RemoveGolden(ctx context.Context, ref string) error
}

type builder interface {
	Build(ctx context.Context, req api.BuildRequest, parts []client.Part, onEvent func(api.BuildEvent) error) (api.Golden, bool, error)
	AnswerBuild(ctx context.Context, id string, r api.HostResult) error
}

type pools interface {
	Pools(ctx context.Context) ([]api.Pool, error)
	SetPool(ctx context.Context, golden string, req api.PoolRequest) (api.Pool, error)
}

type nets interface {
	Networks(ctx context.Context) (api.Networks, error)
	Interfaces(ctx context.Context, id string) ([]api.Interface, error)
	Attach(ctx context.Context, id string, req api.AttachRequest) (api.Attachment, error)
	Detach(ctx context.Context, id, ifName string) error
}

type engines interface {
	Engines(ctx context.Context) ([]api.Engine, error)
	Engine(ctx context.Context, name string) (api.Engine, error)
	AddEngine(ctx context.Context, req api.EngineRequest) (api.Engine, error)
	RemoveEngine(ctx context.Context, name string) error
}

type host interface {
	Version(ctx context.Context) (api.Version, error)
	Doctor(ctx context.Context) (api.Doctor, error)
	GC(ctx context.Context, remove bool) (api.GC, error)
	Fix(ctx context.Context) (api.Doctor, error)
	Stats(ctx context.Context) (api.Stats, error)
	Events(ctx context.Context, filter client.EventFilter, follow bool, f func(api.Event) error) error
}

// wire is the daemon behind its socket.
type wire struct{ *client.Client }

var _ daemon = wire{}

// HoldLease takes the lease id.
func (w wire) HoldLease(ctx context.Context, id string) (lease, error) {
	l, err := w.Client.HoldLease(ctx, id)
	if err != nil {
		return nil, err // not a lease around nil
	}
	return l, nil
}
