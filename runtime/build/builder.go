// Package build makes goldens: it takes in the sources of a build, lends the
// engine a root filesystem and containers to work in, and commits what comes
// out. Whatever goes wrong, and whoever goes away, leaves nothing behind but
// the build log. The other verbs of goldens (list, promote …) are of package goldens.
//
// See DESIGN.md for what it relies on and what a crash leaves.
package build

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/goldens"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/runtime/rundir"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/keylock"
)

const (
	// DefaultEngine builds a golden whose request names no engine.
	DefaultEngine = "postgres"
	// DefaultConcurrency is how many builds are worked on at once. A restore
	// keeps several cores and the disk busy by itself. As many more are worked on for users who have none of these.
	DefaultConcurrency = 2
	// undoTimeout bounds how long a build that has ended is being undone.
	undoTimeout = time.Minute
)

// Bases makes the root filesystems that builds start on.
type Bases interface {
	// Host makes one of files of this host.
	Host(ctx context.Context, tree snapshot.HostTree) (snapshot.Base, error)
	// Pull makes one of an image of a registry. progress counts bytes.
	Pull(ctx context.Context, ref string, progress func(done, total int64)) (snapshot.Base, error)
	// Import makes one of an image archive; name is for people.
	Import(ctx context.Context, r io.Reader, name string, progress func(done, total int64)) (snapshot.Base, error)
}

// Options are what a Builder works with. All fields without a default are
// required.
type Options struct {
	Store   snapshot.Store
	Goldens *goldens.Goldens // takes what is built
	Bases   Bases
	Runner  runtime.Runner
	Network network.Provider
	Engines runtime.Engines

	SpoolDir string // takes the sources of builds; on the disk of the storage
	RunDir   string // sockets and mount points of builds, see [rundir.Dirs]; void after a reboot
	LogDir   string // takes ID.log of builds

	Memory rundir.Memory // default the kernel's

	Logger *slog.Logger // default slog.Default()
	// Peers returns the network lease by which a build reaches the caller's clone at an address; "" where there is none.
	Peers       func(ctx context.Context, caller access.Caller, addr netip.Addr) (lease string, err error)
	HostNetwork bool          // dumps of live databases run in the host's network namespace
	Concurrency int           // default DefaultConcurrency
	Timeout     time.Duration // how long a build may be worked on; 0 is for ever
	MaxUpload   int64         // bytes that the sources of one build may have; 0 is no bound
	Room        func() error  // why no golden is to be made now; default there is room
	// Failpoint, if set, is called before each step of a build.
	Failpoint func(step string) error
	// Payer says whose limits and turns hold for a user, see [access.Payers]; default everybody's own.
	Payer func(uid int) int
	// TrustedGroup is the group of this host whose members take each other's goldens of the same key for their own.
	TrustedGroup string
	Mode         uint32 // of goldens whose builder does not say; default that of [snapshot.DefaultAccess]
}

// Builder builds goldens. It is safe for concurrent use.
type Builder struct {
	Options
	turns *pool.Queue
	locks keylock.Locks

	// Replaced by tests.
	mount   func(mounts []mount.Mount, target string) error
	unmount func(target string, flags int) error
	fail    func(point string) error

	mu   sync.Mutex
	jobs map[string]*job // by id, those under way
}

// New returns a Builder. Call Recover before its first build.
func New(o Options) *Builder {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Room == nil {
		o.Room = func() error { return nil }
	}
	if o.Concurrency <= 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.Failpoint == nil {
		o.Failpoint = func(string) error { return nil }
	}
	if o.Mode == 0 {
		o.Mode = snapshot.DefaultAccess.Mode
	}
	return &Builder{
		Options: o,
		turns:   pool.NewGuestQueue(o.Concurrency, o.Concurrency),
		mount:   mount.All,
		unmount: mount.UnmountRecursive,
		fail:    o.Failpoint,
		jobs:    map[string]*job{},
	}
}

// IDs returns the ids of the builds that are under way.
func (b *Builder) IDs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.jobs))
}

func (b *Builder) unregister(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.jobs, j.id)
}

// Answer hands the result of a command to the build that asked for it. NotFound if the
// caller has no such build, FailedPrecondition if it does not wait, PermissionDenied if the
// result lacks the token of the question.
func (b *Builder) Answer(_ context.Context, caller access.Caller, build string, r api.HostResult) error {
	b.mu.Lock()
	j := b.jobs[build]
	b.mu.Unlock()
	if j == nil || !caller.May(j.caller.UID()) {
		return errNoBuild(build)
	}
	return j.asks.answer(build, r)
}

// undoContext lets an undo run although its cause is that ctx has ended.
func undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
}
