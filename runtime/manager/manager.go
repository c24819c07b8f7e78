// Package manager is the life of clones: it makes them out of a golden, a
// network namespace and a container, hands them out, and removes them when
// they are given back, expire, or lose their lease.
//
// What a clone is, is recorded with its container: see [Manager.Recover].
package manager

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/runtime/rundir"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/keylock"
)

// undoTimeout bounds what is undone after an error or a caller that left.
const undoTimeout = 30 * time.Second

// Options are what a Manager works with. The first six are required.
type Options struct {
	Store   snapshot.Store
	Runner  runtime.Runner
	Network network.Provider
	Engines runtime.Engines // by the name that goldens record
	RunDir  string          // holds a directory per clone, see [rundir.Dirs]; the server's is mounted at [runtime.SocketDir]
	Memory  rundir.Memory   // default the kernel's
	LogDir  string          // holds ID.log of each clone, mode 0640: others read it through the API

	DefaultTTL        time.Duration // default 1 h
	MaxTTL            time.Duration // default 24 h
	StartTimeout      time.Duration // from a started process to its first answer, default 60 s
	LeaseGrace        time.Duration // a new lease must be held within it, default 10 s
	LeaseRestartGrace time.Duration // the same after a restart of the daemon, from Serving on; default 30 s
	Parallel          int           // clones that are made, or torn down, at a time; default twice the cores
	OwnPassword       bool          // clones get passwords of their own, where the engine can
	Egress            bool          // clones reach what is beyond the host unless asked otherwise
	Pool              Pool          // clones that are made ahead; the zero value makes none
	Logger            *slog.Logger  // default discards

	// Zone is where the names of clones are answered, without a dot at the end; "" where
	// nobody does.
	Zone string

	// ResolvConf returns the host's file that a clone with an address of the default
	// network has as its resolv.conf(5); "" leaves it the golden's. nil is "" for all.
	// It is called while a clone is made.
	ResolvConf func(ctx context.Context, addr netip.Addr) string

	Ports          Ports                    // nil publishes none
	Interfaces     Interfaces               // nil attaches no further interfaces
	IsNetworkAdmin func(access.Caller) bool // who may, beside root; nil is nobody

	Limits Limits
	// Space looks at the storage; nil leaves it, and what clones use, unwatched.
	Space func() (patrol.Space, error)
	// EndBuilds ends builds when the storage gets full, see [patrol.Options].
	EndBuilds func(why error) (left int)
	// CgroupRoot is where the cgroup filesystem is mounted; default /sys/fs/cgroup.
	CgroupRoot string
	Events     *event.Hub // takes what happens to clones; nil drops it
	// Observe, if set, is told of each clone that was made, claimed, or not made. It must not block.
	Observe func(context.Context, Made)

	// Failpoint, if set, is called after each step of a clone's creation, claim and removal.
	Failpoint func(step string) error
}

func (o *Options) setDefaults() {
	setDefault(&o.DefaultTTL, time.Hour)
	setDefault(&o.MaxTTL, 24*time.Hour)
	setDefault(&o.StartTimeout, time.Minute)
	setDefault(&o.LeaseGrace, 10*time.Second)
	setDefault(&o.LeaseRestartGrace, 30*time.Second)
	setDefault(&o.CgroupRoot, "/sys/fs/cgroup")
	setDefault(&o.Parallel, 2*goruntime.NumCPU())
	setDefault(&o.Pool.Max, 4*goruntime.NumCPU())
	setDefault(&o.Pool.Parallel, max(1, goruntime.NumCPU()/2))
	setDefault(&o.Logger, slog.New(slog.DiscardHandler))
	o.DefaultTTL = min(o.DefaultTTL, o.MaxTTL)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Manager makes, keeps and removes clones. It is safe for concurrent use. Call
// Recover before anything else, and Close before the API's connections are
// closed.
type Manager struct {
	opts     Options
	log      *slog.Logger
	creating *pool.Queue // of clones that are made, for callers and the pool
	pool     *pool.Pool[*clone]
	removing chan struct{} // a token per clone that is being torn down
	naming   keylock.Locks // taken before mu, in the order of the names

	dirs      rundir.Dirs
	passwords passwords
	quota     *quota.Book // of clones that are handed out, and requests for more
	leases    *lease.Book // of clones that are handed out
	patrol    *patrol.Patrol
	execs     execs

	stopping context.Context // ends when Close begins: creations are undone
	stop     context.CancelFunc
	requests sync.WaitGroup // creations; added to with mu held, unless closing

	ctx    context.Context // ends when Close has done its work
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines

	sizing     sync.Mutex // held while the size of a pool is checked and kept; taken before refreshing
	refreshing sync.Mutex // held while the pool is told of goldens; taken before all others

	namesVersion atomic.Uint64 // changed with mu held

	mu        sync.Mutex
	closing   bool
	clones    map[string]*clone        // those that are handed out, by id
	names     map[nameOf]*clone        // the same, by name
	ids       map[string]bool          // all clones that there is anything of
	teardowns map[string]chan struct{} // clones that are being torn down, by id; closed when done
	backlog   int                      // teardowns that were not tried yet
	torn      chan struct{}            // closed, and replaced, when the backlog gets shorter
}

// New returns a Manager and starts what watches over lifetimes.
func New(opts Options) *Manager {
	opts.setDefaults()
	m := &Manager{
		opts:      opts,
		log:       opts.Logger,
		creating:  pool.NewQueue(opts.Parallel),
		removing:  make(chan struct{}, opts.Parallel),
		clones:    map[string]*clone{},
		names:     map[nameOf]*clone{},
		ids:       map[string]bool{},
		teardowns: map[string]chan struct{}{},
		torn:      make(chan struct{}),
		quota:     quota.New(opts.Limits.User, opts.Limits.All),
	}
	m.dirs = rundir.Dirs{Path: opts.RunDir, Memory: opts.Memory}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.stopping, m.stop = context.WithCancel(m.ctx)
	m.pool = m.newPool()
	m.patrol = patrol.New(patrol.Options{Keeper: watched{m}, Space: opts.Space, EndBuilds: opts.EndBuilds, Log: opts.Logger})
	m.leases = lease.New(lease.Options{
		Grace: opts.LeaseGrace, RestartGrace: opts.LeaseRestartGrace, CgroupRoot: opts.CgroupRoot, Ended: m.expire,
		Ending: func(id string, at time.Time) { m.expiring(id, "it ends at "+at.UTC().Format(time.RFC3339)) },
	})
	if opts.Space != nil {
		m.wg.Go(func() { m.patrol.Run(m.ctx) })
	}
	return m
}

// Close ends everything but the clones: they go on, and a later Manager's
// Recover knows them. Creations under way are undone. It waits for teardowns
// until ctx ends; what is left of them, Recover finishes. Held leases are let go
// of without harm to their clones. Close is idempotent.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closing = true
	m.mu.Unlock()
	m.stop()
	m.leases.Close()
	m.pool.Close()
	m.requests.Wait()
	err := m.Drain(ctx)
	m.mu.Lock()
	m.cancel() // no teardown begins from here on
	m.mu.Unlock()
	m.wg.Wait()
	return err
}

// enter begins a creation, which ends when Close begins or ctx does.
func (m *Manager) enter(ctx context.Context) (context.Context, func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, nil, errClosing
	}
	m.requests.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(m.stopping, func() { cancel(errClosing) })
	return ctx, func() { unlink(); cancel(nil); m.requests.Done() }, nil
}

// step calls the failpoint, if there is one.
func (m *Manager) step(name string) error {
	if m.opts.Failpoint == nil {
		return nil
	}
	return m.opts.Failpoint(name)
}

// Drain waits until what was removed so far is torn down.
func (m *Manager) Drain(ctx context.Context) error {
	for _, done := range m.pending() {
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("wait for clones to be torn down: %w", ctx.Err())
		case <-m.ctx.Done():
			return nil
		}
	}
	return nil
}

// IDs returns the ids of all clones that there is, or may be, anything of.
func (m *Manager) IDs() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.ids)
}

// own notes that there will be something of a clone, disown that there is nothing left.
func (m *Manager) own(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ids[id] = true
}

func (m *Manager) disown(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ids, id)
}

func (m *Manager) pending() []chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]chan struct{}, 0, len(m.teardowns))
	for _, done := range m.teardowns {
		list = append(list, done)
	}
	return list
}

// Live returns how many clones a golden has; a Ref without version means all of
// the name's versions.
func (m *Manager) Live(ref snapshot.Ref) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.clones {
		if c.rec.Golden == ref.Name && (ref.Version == 0 || c.rec.Version == ref.Version) {
			n++
		}
	}
	return n
}

// errClosing is what new work gets while the daemon stops.
var errClosing = fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
