package manager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Pool says how many clones are made ahead.
type Pool struct {
	Size     int   // of each golden, whatever the demand
	Auto     bool  // follow the demand beyond Size
	Max      int   // of one golden at most, by demand; default four times the cores
	Parallel int   // made at a time; default half the cores
	Memory   int64 // bytes for all; 0 means no bound
	// Sizes keeps what Size was set to for a golden; nil forgets it with the process.
	Sizes Sizes
}

// Sizes keeps sizes of pools, durably.
type Sizes interface {
	// PoolSizes returns the sizes that are set, by golden name.
	PoolSizes(ctx context.Context) (map[string]int, error)
	// SetPoolSize sets the size for a golden's name; below 0 takes it back.
	SetPoolSize(ctx context.Context, name string, size int) error
}

// poolParty is the pool in the queue of those who have clones made.
const poolParty = "pool"

// pressureLimit is the share of time, in percent, in which something on this host waited for a CPU, above which members
// are made one by one.
const pressureLimit = 50

// warm has clones that are made ahead of those who will ask for them, and gives them out.
type warm struct {
	host
	opts      Pool
	limits    api.Limits // of a member
	engines   runtime.Engines
	registry  *registry
	quota     *quota.Book
	queue     *pool.Queue // of all clones that are made
	maker     *maker
	removals  *removal.Queue
	passwords *passwords
	room      func() error // why nothing is to be made now; nil if it may
	observe   func(context.Context, Made)

	members    *pool.Pool[*clone]
	sizing     sync.Mutex // held while the size of a pool is checked and kept; taken before refreshing
	refreshing sync.Mutex // held while the pool is told of goldens; taken before all others
}

// fill has clones made ahead: call it once, when all fields are set.
func (w *warm) fill() {
	o := w.opts
	w.members = pool.New(pool.Options[*clone]{
		Make:    w.make,
		Discard: func(c *clone) { c.leavePool(); w.removals.Remove(c.id) },
		Dead:    func(c *clone) bool { return c.hasEnded() || w.isOutdated(c) },
		Cost: func(ctx context.Context, c *clone) int64 {
			n, _ := c.task.Memory(ctx) // 0: unknown
			return n
		},
		Limit: w.limit,
		Size:  o.Size, Auto: o.Auto, Max: o.Max, Memory: o.Memory, Logger: w.log,
	})
}

// isOutdated says whether a member waits at an address that the network does not have any more: it runs, but is not to
// be handed out.
func (w *warm) isOutdated(c *clone) bool {
	n, ok := w.network.(interface{ Outdated(netip.Addr) bool })
	addr := c.record().Addr
	return ok && addr.IsValid() && n.Outdated(addr)
}

// plan is what a member of a golden is like.
func (w *warm) plan(g snapshot.Golden) (*plan, error) {
	engine, err := w.engines.Engine(g.Engine)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	process, err := engine.Server(g, serverSettings(engine, nil, w.limits))
	if err != nil {
		return nil, fmt.Errorf("set up server: %w", err)
	}
	return &plan{golden: g, engine: engine, process: process, limits: w.limits, member: true}, nil
}

// isCurrent says whether a member that an earlier process has made is what this one would make.
func (w *warm) isCurrent(g snapshot.Golden, rec record) bool {
	want, err := w.plan(g)
	return err == nil && fingerprint(want.process) == rec.Process
}

// make makes a clone that is nobody's yet.
func (w *warm) make(ctx context.Context, g snapshot.Golden) (*clone, error) {
	want, err := w.plan(g)
	if err != nil {
		return nil, err
	}
	leave, _, err := w.queue.Enter(ctx, poolParty, pool.Waiting{})
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := w.removals.Await(ctx); err != nil {
		return nil, err
	}
	c, err := w.maker.make(ctx, want, "")
	if err == nil {
		c.proc = openPID(c.record().PID)
		w.passwords.prepare(ctx, c)
	}
	return c, err
}

// fingerprint returns a digest of what runs.
func fingerprint(p runtime.Process) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", p))
	return hex.EncodeToString(sum[:8])
}

// limit says how many members may be made at a time: one while clones are made that callers wait for or the host is
// loaded. Each takes its turn in the callers' queue, so that together they are never more than Parallel.
func (w *warm) limit() int {
	if w.room() != nil {
		return 0
	}
	in, waiting := w.queue.Busy(poolParty)
	if in+waiting > 0 || cpuPressure() > pressureLimit {
		return 1
	}
	return w.opts.Parallel
}

// cpuPressure returns the share of the last ten seconds in which something waited for a CPU, in percent; 0 where the
// kernel does not say. See https://docs.kernel.org/accounting/psi.html.
func cpuPressure() float64 {
	b, err := os.ReadFile("/proc/pressure/cpu")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(b, []byte("avg10="))
	value, _, _ := bytes.Cut(rest, []byte(" "))
	f, _ := strconv.ParseFloat(string(value), 64)
	return f
}

// claim takes a member, or a place among those who wait for one. A server with settings, networks or an address of its
// own is made for its caller.
func (w *warm) claim(want *plan) (*clone, *pool.Await[*clone]) {
	if len(want.settings) > 0 || want.networks != "" || want.addr.IsValid() || want.limits.Connections != w.limits.Connections {
		return nil, nil
	}
	c, _, await := w.members.ClaimOrAwait(want.golden)
	return c, await
}

// stopAwait returns the member that came, or nil.
func stopAwait(a *pool.Await[*clone]) *clone {
	if a == nil {
		return nil
	}
	c, _ := a.Stop()
	return c
}

// handOver makes a claimed member its caller's. One that cannot be personalised is for nobody else, whether its record
// says that it is somebody's is not known: ok says whether it is the caller's now.
func (w *warm) handOver(ctx context.Context, c *clone, want *plan, name string, begun time.Time) (ok bool, err error) {
	defer c.leavePool()
	err = w.personalise(ctx, c, want, name, begun)
	if err == nil && !c.hasEnded() && !isEnding(c.task.PID()) {
		w.observe(ctx, Made{Golden: want.golden.Ref(), Began: begun, Timings: c.record().Timings})
		return true, nil
	}
	if err != nil && ctx.Err() == nil {
		w.log.Warn("pool member not handed out", "clone", c.id, "error", err)
	}
	return false, ctx.Err()
}

// personalise makes a member its caller's. The record is written before anybody hears of it: from then on it is in no
// pool, whatever happens to this process.
func (w *warm) personalise(ctx context.Context, c *clone, want *plan, name string, begun time.Time) error {
	timings := api.Timings{api.StageClaim: milliseconds(time.Since(begun))}
	claimed := time.Now()
	if !want.caller.IsRoot() { // it is root's
		if err := w.files.Admit(c.id, want.caller.UID()); err != nil {
			return err
		}
	}
	if err := w.setLimits(ctx, c, want); err != nil {
		return err
	}
	if err := w.network.Assign(ctx, c.id, want.network()); err != nil {
		return fmt.Errorf("assign network: %w", err)
	}
	withPassword, err := w.passwords.set(ctx, c, want)
	if err != nil {
		return err
	}
	if err := w.step("claim"); err != nil {
		return err
	}
	err = w.registry.update(ctx, c, func(r *record) {
		r.Member, r.Process, r.Ready, r.Timings = false, "", want.isComplete(), timings
		withPassword(r)
		r.personalise(want, name, begun)
		r.live(want.ttl)
	})
	if err := errors.Join(err, w.step("claimed")); err != nil {
		return err
	}
	c.change(func(r *record) {
		r.Timings = api.Timings{
			api.StageClaim:       timings[api.StageClaim],
			api.StagePersonalise: milliseconds(time.Since(claimed)),
			api.StageTotal:       milliseconds(time.Since(begun)),
		}
	})
	return nil
}

// setLimits gives a member the limits that its caller wants, if others than it has.
func (w *warm) setLimits(ctx context.Context, c *clone, want *plan) error {
	have, l := hostLimits(api.Limits(c.record().Limits)), hostLimits(want.limits)
	if have == l {
		return nil
	}
	limiter, ok := w.runner.(runtime.Limiter)
	if !ok {
		return fmt.Errorf("limit clone: %w", errdefs.ErrNotImplemented)
	}
	return limiter.SetLimits(ctx, c.id, l)
}

// refresh tells the pool which goldens there are, and starts it.
func (w *warm) refresh(ctx context.Context) error {
	w.refreshing.Lock() // what was read first must not be told last
	defer w.refreshing.Unlock()
	goldens, err := w.store.Goldens(ctx)
	if err != nil {
		return fmt.Errorf("refresh pool: %w", err)
	}
	sizes := map[string]int{}
	if w.opts.Sizes != nil {
		if sizes, err = w.opts.Sizes.PoolSizes(ctx); err != nil {
			return fmt.Errorf("refresh pool: %w", err)
		}
	}
	goldens = slices.DeleteFunc(goldens, func(g snapshot.Golden) bool { return g.Damaged() != nil })
	w.members.Update(goldens, sizes)
	return nil
}

// suspend removes the members of a golden, or with version 0 of all versions of its name, waits until they are gone and
// keeps new ones from being made until resume is called.
func (w *warm) suspend(ctx context.Context, ref snapshot.Ref) (resume func(), err error) {
	resume, err = w.members.Suspend(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := w.removals.Drain(ctx); err != nil {
		resume()
		return nil, err
	}
	return resume, nil
}

// list tells of the pools of goldens that the caller may know of, by golden.
func (w *warm) list(ctx context.Context, caller access.Caller) []api.Pool {
	list := []api.Pool{}
	for _, s := range w.members.Stats() {
		if _, err := w.readable(ctx, caller, s.Golden); err == nil {
			list = append(list, describePool(s))
		}
	}
	return list
}

// readable returns a golden that the caller may know of.
func (w *warm) readable(ctx context.Context, caller access.Caller, ref snapshot.Ref) (snapshot.Golden, error) {
	g, err := w.store.Golden(ctx, ref)
	return caller.Readable(ref, g, err)
}

func describePool(s pool.Stat) api.Pool {
	p := api.Pool{
		Schema: api.Schema, Golden: s.Golden.Name, Version: s.Golden.Version, Auto: s.Size < 0,
		Wanted: s.Wanted, Ready: s.Ready, Making: s.Making, Hits: s.Hits, Misses: s.Misses,
	}
	if s.Size >= 0 {
		p.Size = &s.Size
	}
	return p
}

// set sets the size of a golden's pool, or has it follow the demand again.
func (w *warm) set(ctx context.Context, caller access.Caller, name string, req api.PoolRequest) (api.Pool, error) {
	size, err := poolSize(req)
	if err != nil {
		return api.Pool{}, err
	}
	ref, err := snapshot.ParseRef(name)
	if err == nil && ref.Version != 0 {
		err = snapshot.WithHint(
			fmt.Errorf("pool of golden %s: a pool is of the current version: %w", ref, errdefs.ErrInvalidArgument),
			"leave the version out: "+ref.Name)
	}
	if err != nil {
		return api.Pool{}, err
	}
	g, err := w.readable(ctx, caller, ref)
	if err == nil {
		err = caller.CheckWrite(g)
	}
	if err != nil {
		return api.Pool{}, hintMissing(fmt.Errorf("find golden %s: %w", ref, err))
	}
	if w.opts.Sizes == nil {
		return api.Pool{}, fmt.Errorf("set pool of golden %s: this daemon keeps no sizes: %w", ref, errdefs.ErrNotImplemented)
	}
	if err := w.setSize(ctx, caller, g, size); err != nil {
		return api.Pool{}, fmt.Errorf("set pool of golden %s: %w", ref, err)
	}
	if err := w.refresh(ctx); err != nil {
		return api.Pool{}, err
	}
	w.log.Info("pool set", "golden", ref.Name, "size", size)
	for _, s := range w.members.Stats() {
		if s.Golden == g.Ref() {
			return describePool(s), nil
		}
	}
	return api.Pool{}, fmt.Errorf("golden %s was removed meanwhile: %w", ref, errdefs.ErrNotFound)
}

// setSize keeps the size of a golden's pool. One who is no administrator has no more kept ready, of all goldens of its
// owner together, than the owner may have clones: a member is a server that runs, too.
func (w *warm) setSize(ctx context.Context, caller access.Caller, g snapshot.Golden, size int) error {
	w.sizing.Lock()
	defer w.sizing.Unlock()
	if !caller.IsAdmin() && size > 0 {
		others, err := w.keptReady(ctx, g)
		if err != nil {
			return err
		}
		if err := w.quota.Fits(g.Access.Owner, others+size, w.limits.MemoryBytes); err != nil {
			return snapshot.WithHint(err, "choose a smaller size, remove clones or other pools, or ask an administrator")
		}
	}
	return w.opts.Sizes.SetPoolSize(ctx, g.Name, size)
}

// keptReady is how many clones the pools of the other goldens of g's owner are set to.
func (w *warm) keptReady(ctx context.Context, g snapshot.Golden) (n int, err error) {
	sizes, err := w.opts.Sizes.PoolSizes(ctx)
	if err != nil {
		return 0, err
	}
	goldens, err := w.store.Goldens(ctx)
	for _, o := range goldens {
		if o.Current && o.Name != g.Name && o.Access.Owner == g.Access.Owner {
			n += max(sizes[o.Name], 0)
		}
	}
	return n, err
}

// poolSize returns the size that is asked for, or -1 for automatic.
func poolSize(req api.PoolRequest) (int, error) {
	switch {
	case (req.Size == nil) == !req.Auto:
		return 0, fmt.Errorf("want either a size or auto: %w", errdefs.ErrInvalidArgument)
	case req.Auto:
		return -1, nil
	case *req.Size < 0 || *req.Size > maxCount:
		return 0, fmt.Errorf("size %d is not within 0 and %d: %w", *req.Size, maxCount, errdefs.ErrInvalidArgument)
	}
	return *req.Size, nil
}
