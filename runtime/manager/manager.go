// Package manager is the life of clones: it makes them out of a golden, a network namespace and a container, hands them
// out, and removes them when they are given back, expire, or lose their lease.
//
// What a clone is, is recorded with its container: see [Manager.Recover].
package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	goruntime "runtime"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/runtime/rundir"
	"github.com/ctrsnap/ctrsnap/snapshot"
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

	// Zone is where the names of clones are answered, without a dot at the end; "" where nobody does.
	Zone string

	// ResolvConf returns the host's file that a clone with an address of the default network has as its resolv.conf(5);
	// "" leaves it the golden's. nil is "" for all. It is called while a clone is made.
	ResolvConf func(ctx context.Context, addr netip.Addr) string

	Ports          Ports                    // nil publishes none
	Interfaces     Interfaces               // nil attaches no further interfaces
	IsNetworkAdmin func(access.Caller) bool // who may, beside root; nil is nobody

	Limits Limits
	// Space looks at the storage; nil leaves it, and what clones use, unwatched.
	Space func() (patrol.Space, error)
	// Payer says whose limits and turns hold for a user, see [access.Payers]; default everybody's own.
	Payer func(uid int) int
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
	if o.Payer == nil {
		o.Payer = func(uid int) int { return uid }
	}
	setDefault(&o.Pool.Max, 4*goruntime.NumCPU())
	setDefault(&o.Pool.Parallel, max(1, goruntime.NumCPU()/2))
	setDefault(&o.Logger, slog.New(slog.DiscardHandler))
	if o.ResolvConf == nil {
		o.ResolvConf = func(context.Context, netip.Addr) string { return "" }
	}
	if o.Observe == nil {
		o.Observe = func(context.Context, Made) {}
	}
	o.DefaultTTL = min(o.DefaultTTL, o.MaxTTL)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Manager makes, keeps and removes clones. It is safe for concurrent use. Call Recover before anything else, and Close
// before the API's connections are closed.
//
// Its parts do the work, each with a lock of its own if it needs one. Who may be called with which lock held is said
// with the lock.
type Manager struct {
	opts  Options
	log   *slog.Logger
	files files

	gate     *gate       // of requests that make clones
	queue    *pool.Queue // of clones that are made, for callers and the pool
	quota    *quota.Book // of clones that are handed out, and requests for more
	leases   *lease.Book // of clones that are handed out
	patrol   *patrol.Patrol
	removals *removal.Queue

	registry   *registry
	deaths     *deaths
	passwords  *passwords
	interfaces *interfaces // nil where none are attached
	planner    *planner
	warm       *warm
	creator    *creator
	undertaker *undertaker
	recoverer  *recoverer

	execs     execs
	endPatrol func() // and waits
}

// New returns a Manager and starts what watches over lifetimes.
func New(opts Options) *Manager {
	opts.setDefaults()
	m := &Manager{opts: opts, log: opts.Logger, gate: newGate(), queue: pool.NewQueue(opts.Parallel), endPatrol: func() {}}
	m.files = files{rundir.Dirs{Path: opts.RunDir, Memory: opts.Memory}, opts.LogDir}
	m.quota = quota.New(opts.Limits.User, opts.Limits.All, opts.Payer)
	m.leases = lease.New(lease.Options{
		Grace: opts.LeaseGrace, RestartGrace: opts.LeaseRestartGrace, CgroupRoot: opts.CgroupRoot,
		Ended:  func(id, why string) { m.undertaker.expire(id, why) },
		Ending: func(id string, at time.Time) { m.undertaker.expiring(id, "it ends at "+at.UTC().Format(time.RFC3339)) },
	})
	m.removals = removal.New(removal.Options{
		Remove:  func(ctx context.Context, id string) error { return m.undertaker.tearDown(ctx, id) },
		Timeout: undoTimeout, Parallel: opts.Parallel, Log: m.log,
	})
	m.registry = newRegistry(opts.Runner, m.quota, m.leases)
	m.deaths = newDeaths(opts.Runner.Load, func(c *clone) {
		m.warm.members.Poke() // it may be a member
		m.undertaker.died(c)
	})
	m.passwords = newPasswords(m.log)
	m.wire()
	if opts.Space != nil {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { m.patrol.Run(ctx) })
		m.endPatrol = func() { cancel(); wg.Wait() }
	}
	return m
}

// wire makes the parts that know of each other.
func (m *Manager) wire() {
	o := &m.opts
	var all extras
	if o.Ports != nil {
		all = append(all, &ports{o.Ports, m.registry})
	}
	if o.Interfaces != nil {
		m.interfaces = &interfaces{o.Interfaces, m.registry, m.removals, m.step}
		all = append(all, m.interfaces)
	}
	m.planner = &planner{o, m.leases, m.passwords}
	h := host{o.Store, o.Network, o.Runner, m.files, m.step, m.log}
	m.undertaker = &undertaker{host: h, extras: all, registry: m.registry, removals: m.removals, events: o.Events}
	maker := &maker{
		host: h, resolvConf: o.ResolvConf, startTimeout: o.StartTimeout, registry: m.registry, removals: m.removals,
		deaths: m.deaths, observe: o.Observe,
	}
	m.warm = &warm{
		host: h, opts: o.Pool, limits: o.Limits.Clone, engines: o.Engines, registry: m.registry, quota: m.quota, queue: m.queue,
		maker: maker, removals: m.removals, passwords: m.passwords, room: m.Room, observe: o.Observe,
	}
	m.warm.fill()
	m.creator = &creator{
		planner: m.planner, registry: m.registry, quota: m.quota, queue: m.queue, warm: m.warm, maker: maker,
		passwords: m.passwords, extras: all, removals: m.removals, undertaker: m.undertaker, parallel: o.Parallel,
		payer: o.Payer, room: m.Room, events: o.Events, step: m.step, log: m.log,
	}
	m.recoverer = &recoverer{
		host: h, engines: o.Engines, extras: all, registry: m.registry, removals: m.removals, deaths: m.deaths, warm: m.warm,
		parallel: o.Parallel,
	}
	m.patrol = patrol.New(patrol.Options{
		Keeper: &keeper{o.Store, m.files, m.registry, m.quota, m.undertaker, m.warm.members.Poke, o.Events},
		Space:  o.Space, EndBuilds: o.EndBuilds, Log: m.log,
	})
}

// Close ends everything but the clones: they go on, and a later Manager's Recover knows them. Creations under way are
// undone. It waits for teardowns until ctx ends; what is left of them, Recover finishes. Held leases are let go of
// without harm to their clones. Close is idempotent.
func (m *Manager) Close(ctx context.Context) error {
	m.registry.close()
	m.gate.close()
	m.leases.Close()
	m.warm.members.Close()
	m.gate.wait()
	err := m.Drain(ctx)
	m.removals.Close()
	m.endPatrol()
	m.passwords.close()
	m.deaths.close()
	return err
}

// step calls the failpoint, if there is one.
func (m *Manager) step(name string) error {
	if m.opts.Failpoint == nil {
		return nil
	}
	return m.opts.Failpoint(name)
}

// Recover takes up what an earlier process left: clones that run are adopted as they were recorded, all else that
// belongs to clones is torn down, in the background. Clones of a lease wait for its holder until Serving is called, and
// LeaseRestartGrace from then on. An error about one clone does not keep the others from being recovered; that clone is
// left alone.
func (m *Manager) Recover(ctx context.Context) (Report, error) { return m.recoverer.recover(ctx) }

// Create makes the clones of a request, all of them or none. A caller that leaves meanwhile (ctx ends) gets none.
//
// A clone that exists by a wanted name is an error (fail), is handed out as it is unless it is dead or of another
// golden (reuse), or is replaced once its successor answers (reset).
func (m *Manager) Create(ctx context.Context, caller access.Caller, req api.CloneRequest) (api.CloneResponse, error) {
	ctx, leave, err := m.gate.enter(ctx)
	if err != nil {
		return api.CloneResponse{}, err
	}
	defer leave()
	want, all, err := m.creator.create(ctx, caller, req)
	if err != nil {
		if errors.Is(context.Cause(ctx), errClosing) {
			err = errClosing
		}
		return api.CloneResponse{}, err
	}
	resp := api.CloneResponse{Schema: api.Schema, LeaseID: want.lease.ID}
	for _, c := range all {
		seen := m.describe(c.clone)
		seen.Created = c.isNew
		resp.Clones = append(resp.Clones, seen)
	}
	return resp, nil
}

// Remove makes a clone invisible and kills its server. The rest is torn down afterwards: Drain waits for it. One that
// is protected goes by force only.
func (m *Manager) Remove(ctx context.Context, caller access.Caller, id string, force bool) error {
	c, err := m.registry.find(caller, id)
	if err != nil {
		return err
	}
	return m.undertaker.remove(ctx, caller, c, force)
}

// Drain waits until what was removed so far is torn down.
func (m *Manager) Drain(ctx context.Context) error { return m.removals.Drain(ctx) }

// IDs returns the ids of all clones that there is, or may be, anything of.
func (m *Manager) IDs() map[string]bool { return m.removals.Owned() }

// Live returns how many clones a golden has; a Ref without version means all of the name's versions.
func (m *Manager) Live(ref snapshot.Ref) int { return m.registry.live(ref) }

// Room says why no clone and no golden is to be made now; nil if they may.
func (m *Manager) Room() error { return m.patrol.Room() }

var _ dns.Directory = (*Manager)(nil)

// Names are the clones that are handed out, as others find them: oldest first.
func (m *Manager) Names() []dns.Clone { return m.registry.Names() }

// NamesVersion changes when clones come and go. It takes no lock.
func (m *Manager) NamesVersion() uint64 { return m.registry.NamesVersion() }

// RefreshPool tells the pool which goldens there are, and starts it. Call it after Recover, and whenever goldens have
// changed.
func (m *Manager) RefreshPool(ctx context.Context) error { return m.warm.refresh(ctx) }

// SuspendPool removes the members of a golden, or with version 0 of all versions of its name, waits until they are gone
// and keeps new ones from being made until resume is called.
func (m *Manager) SuspendPool(ctx context.Context, ref snapshot.Ref) (resume func(), err error) {
	return m.warm.suspend(ctx, ref)
}

// EmptyPool removes all members of a pool that was not started. Drain waits for it.
func (m *Manager) EmptyPool() { m.warm.members.Empty() }

// Pools tells of the pools of goldens that the caller may know of, by golden.
func (m *Manager) Pools(ctx context.Context, caller access.Caller) ([]api.Pool, error) {
	return m.warm.list(ctx, caller), nil
}

// SetPool sets the size of a golden's pool, or has it follow the demand again.
func (m *Manager) SetPool(ctx context.Context, caller access.Caller, name string, req api.PoolRequest) (api.Pool, error) {
	return m.warm.set(ctx, caller, name, req)
}

// Serving begins the time that holders of recovered leases have to come back, LeaseRestartGrace. Call it when they can.
func (m *Manager) Serving() { m.leases.Serving() }

// Hold holds a lease until ctx ends; see [lease.Book.Hold].
func (m *Manager) Hold(ctx context.Context, caller access.Caller, id string, held func()) error {
	return m.leases.Hold(ctx, caller, id, held)
}

// Extend moves the end of a clone's life to a TTL from now, protects it, or both. A clone that lives by a lease lives
// by its TTL from then on: this is how it is kept when the lease ends.
func (m *Manager) Extend(ctx context.Context, caller access.Caller, id string, req api.ExtendRequest) (api.Clone, error) {
	ttl := req.TTL
	if ttl <= 0 && req.Protect == nil {
		return api.Clone{}, fmt.Errorf("ttl must be above zero: %w", errdefs.ErrInvalidArgument)
	}
	if err := m.planner.checkTTL(time.Duration(ttl)); err != nil {
		return api.Clone{}, err
	}
	c, err := m.registry.find(caller, id)
	if err != nil {
		return api.Clone{}, err
	}
	err = m.registry.update(ctx, c, func(r *record) {
		if req.Protect != nil {
			r.Protected = *req.Protect
		}
		if ttl > 0 {
			r.live(time.Duration(ttl))
			r.LeaseID, r.Holder = "", ""
		}
	})
	if err != nil {
		return api.Clone{}, err
	}
	emit(m.opts.Events, caller, api.EventCloneExtended, c, "")
	return m.Get(ctx, caller, c.id)
}

// errClosing is what new work gets while the daemon stops.
var errClosing = fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
