package manager

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
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

// pressureLimit is the share of time, in percent, in which something on this
// host waited for a CPU, above which members are made one by one.
const pressureLimit = 50

func (m *Manager) newPool() *pool.Pool[*clone] {
	o := m.opts.Pool
	return pool.New(pool.Options[*clone]{
		Make:    m.makeMember,
		Discard: func(c *clone) { c.leavePool(); m.teardown(c.id) },
		Dead:    func(c *clone) bool { return c.hasEnded() || m.isOutdated(c) },
		Cost: func(ctx context.Context, c *clone) int64 {
			n, _ := c.task.Memory(ctx) // 0: unknown
			return n
		},
		Limit: m.refillLimit,
		Size:  o.Size, Auto: o.Auto, Max: o.Max, Memory: o.Memory, Logger: m.log,
	})
}

// makeMember makes a clone that is nobody's yet.
func (m *Manager) makeMember(ctx context.Context, g snapshot.Golden) (*clone, error) {
	engine, err := m.opts.Engines.Engine(g.Engine)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	limits := m.opts.Limits.Clone
	process, err := engine.Server(g, serverSettings(engine, nil, limits))
	if err != nil {
		return nil, fmt.Errorf("set up server: %w", err)
	}
	leave, _, err := m.creating.Enter(ctx, poolParty, pool.Waiting{})
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := m.awaitRemovals(ctx); err != nil {
		return nil, err
	}
	c, err := m.start(ctx, &plan{golden: g, engine: engine, process: process, limits: limits, member: true}, "")
	if err == nil {
		c.proc = openPID(c.rec.PID)
		m.openPassword(ctx, c)
	}
	return c, err
}

// fingerprint returns a digest of what runs.
func fingerprint(p runtime.Process) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v", p))
	return hex.EncodeToString(sum[:8])
}

// refillLimit says how many members may be made at a time: one while clones are
// made that callers wait for or the host is loaded. Each takes its turn in the
// callers' queue, so that together they are never more than Parallel.
func (m *Manager) refillLimit() int {
	if m.Room() != nil {
		return 0
	}
	in, waiting := m.creating.Busy(poolParty)
	if in+waiting > 0 || cpuPressure() > pressureLimit {
		return 1
	}
	return m.opts.Pool.Parallel
}

// cpuPressure returns the share of the last ten seconds in which something waited for a
// CPU, in percent; 0 where the kernel does not say. See
// https://docs.kernel.org/accounting/psi.html.
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

// fromPool takes a member of the pool, or a place among those who wait for
// one. A server with settings, networks
// or an address of its own is made for its caller.
func (m *Manager) fromPool(want *plan) (*clone, *pool.Await[*clone]) {
	if len(want.settings) > 0 || want.networks != "" || want.addr.IsValid() || want.limits.Connections != m.opts.Limits.Clone.Connections {
		return nil, nil
	}
	c, _, await := m.pool.ClaimOrAwait(want.golden)
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

// handOver makes a claimed member its caller's. One that cannot be personalised
// is removed, whether its record says that it is somebody's is not known, and
// nil says that another one is to be taken.
func (m *Manager) handOver(ctx context.Context, c *clone, want *plan, name string, begun time.Time) (*clone, error) {
	defer c.leavePool()
	err := m.personalise(ctx, c, want, name, begun)
	if err == nil && !c.hasEnded() && !isEnding(c.task.PID()) {
		m.observed(ctx, Made{Golden: want.golden.Ref(), Began: begun, Timings: c.rec.Timings})
		return c, nil
	}
	m.end(ctx, c)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		m.log.Warn("pool member not handed out", "clone", c.id, "error", err)
	}
	return nil, nil
}

// personalise makes a member its caller's. The record is written before anybody
// hears of it: from then on it is in no pool, whatever happens to this process.
func (m *Manager) personalise(ctx context.Context, c *clone, want *plan, name string, begun time.Time) error {
	timings := api.Timings{api.StageClaim: milliseconds(time.Since(begun))}
	claimed := time.Now()
	if !want.caller.IsRoot() { // it is root's
		if err := m.dirs.Admit(c.id, want.caller.UID()); err != nil {
			return err
		}
	}
	if err := m.setLimits(ctx, c, want); err != nil {
		return err
	}
	if err := m.opts.Network.Assign(ctx, c.id, want.network()); err != nil {
		return fmt.Errorf("assign network: %w", err)
	}
	withPassword, err := m.setPassword(ctx, c, want)
	if err != nil {
		return err
	}
	if err := m.step("claim"); err != nil {
		return err
	}
	err = m.update(ctx, c, func(r *record) {
		r.Member, r.Process, r.Ready, r.Timings = false, "", want.isComplete(), timings
		withPassword(r)
		r.personalise(want, name, begun)
		r.live(want.ttl)
	})
	if err := errors.Join(err, m.step("claimed")); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.rec.Timings = api.Timings{
		api.StageClaim:       timings[api.StageClaim],
		api.StagePersonalise: milliseconds(time.Since(claimed)),
		api.StageTotal:       milliseconds(time.Since(begun)),
	}
	return nil
}

// RefreshPool tells the pool which goldens there are, and starts it. Call it
// after Recover, and whenever goldens have changed.
func (m *Manager) RefreshPool(ctx context.Context) error {
	m.refreshing.Lock() // what was read first must not be told last
	defer m.refreshing.Unlock()
	goldens, err := m.opts.Store.Goldens(ctx)
	if err != nil {
		return fmt.Errorf("refresh pool: %w", err)
	}
	sizes := map[string]int{}
	if m.opts.Pool.Sizes != nil {
		if sizes, err = m.opts.Pool.Sizes.PoolSizes(ctx); err != nil {
			return fmt.Errorf("refresh pool: %w", err)
		}
	}
	goldens = slices.DeleteFunc(goldens, func(g snapshot.Golden) bool { return g.Damaged() != nil })
	m.pool.Update(goldens, sizes)
	return nil
}

// SuspendPool removes the members of a golden, or with version 0 of all
// versions of its name, waits until they are gone and keeps new ones from being
// made until resume is called.
func (m *Manager) SuspendPool(ctx context.Context, ref snapshot.Ref) (resume func(), err error) {
	resume, err = m.pool.Suspend(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := m.Drain(ctx); err != nil {
		resume()
		return nil, err
	}
	return resume, nil
}

// EmptyPool removes all members of a pool that was not started. Drain waits for it.
func (m *Manager) EmptyPool() { m.pool.Empty() }

// Pools tells of the pools of goldens that the caller may know of, by golden.
func (m *Manager) Pools(ctx context.Context, caller access.Caller) ([]api.Pool, error) {
	list := []api.Pool{}
	for _, s := range m.pool.Stats() {
		if _, err := m.readable(ctx, caller, s.Golden); err == nil {
			list = append(list, describePool(s))
		}
	}
	return list, nil
}

// readable returns a golden that the caller may know of.
func (m *Manager) readable(ctx context.Context, caller access.Caller, ref snapshot.Ref) (snapshot.Golden, error) {
	g, err := m.opts.Store.Golden(ctx, ref)
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

// SetPool sets the size of a golden's pool, or has it follow the demand again.
func (m *Manager) SetPool(ctx context.Context, caller access.Caller, name string, req api.PoolRequest) (api.Pool, error) {
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
	g, err := m.readable(ctx, caller, ref)
	if err == nil {
		err = caller.CheckWrite(g)
	}
	if err != nil {
		return api.Pool{}, hintMissing(fmt.Errorf("find golden %s: %w", ref, err))
	}
	if m.opts.Pool.Sizes == nil {
		return api.Pool{}, fmt.Errorf("set pool of golden %s: this daemon keeps no sizes: %w", ref, errdefs.ErrNotImplemented)
	}
	if err := m.setPoolSize(ctx, caller, g, size); err != nil {
		return api.Pool{}, fmt.Errorf("set pool of golden %s: %w", ref, err)
	}
	if err := m.RefreshPool(ctx); err != nil {
		return api.Pool{}, err
	}
	m.log.Info("pool set", "golden", ref.Name, "size", size)
	for _, s := range m.pool.Stats() {
		if s.Golden == g.Ref() {
			return describePool(s), nil
		}
	}
	return api.Pool{}, fmt.Errorf("golden %s was removed meanwhile: %w", ref, errdefs.ErrNotFound)
}

// setPoolSize keeps the size of a golden's pool. One who is no administrator has no more kept ready, of all goldens
// of its owner together, than the owner may have clones: a member is a server that runs, too.
func (m *Manager) setPoolSize(ctx context.Context, caller access.Caller, g snapshot.Golden, size int) error {
	m.sizing.Lock()
	defer m.sizing.Unlock()
	if !caller.IsAdmin() && size > 0 {
		others, err := m.keptReady(ctx, g)
		if err != nil {
			return err
		}
		if err := m.quota.Fits(g.Access.Owner, others+size, m.opts.Limits.Clone.MemoryBytes); err != nil {
			return snapshot.WithHint(err, "choose a smaller size, remove clones or other pools, or ask an administrator")
		}
	}
	return m.opts.Pool.Sizes.SetPoolSize(ctx, g.Name, size)
}

// keptReady is how many clones the pools of the other goldens of g's owner are set to.
func (m *Manager) keptReady(ctx context.Context, g snapshot.Golden) (n int, err error) {
	sizes, err := m.opts.Pool.Sizes.PoolSizes(ctx)
	if err != nil {
		return 0, err
	}
	goldens, err := m.opts.Store.Goldens(ctx)
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
