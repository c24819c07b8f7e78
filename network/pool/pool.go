// Package pool is a network.Provider that makes namespaces ahead of those that
// ask for them, with another Provider. A namespace that was taken once is never
// given to anybody else: connections, rules and addresses in use would go with
// it. network/DESIGN.md has reasons and figures.
package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/locker"

	"github.com/ctrsnap/ctrsnap/network"
)

// Options configure a Pool. Dir is required.
type Options struct {
	// Dir holds the pool's records. It is on a filesystem that a reboot
	// empties, as the inner Provider's state is.
	Dir string
	// Size is how many namespaces are kept ahead; 0 makes each when it is asked
	// for.
	Size int
	// Parallel bounds how many are made ahead at once; 0 means 1.
	Parallel int

	Log *slog.Logger // nil means slog.Default()

	// Failpoint, if set, is called before each step of Add and Remove.
	Failpoint func(step string) error
}

// Checker is a Provider that can say, without waiting for anything, whether a
// namespace made earlier can still be used.
type Checker interface {
	Check(ctx context.Context, ns network.Namespace) error
}

// Pool hands out namespaces made ahead. It is safe for concurrent use. Locks:
// ids (by id), then mu.
//
// All namespaces of the inner Provider that it makes have ids of their own, n
// and 11 characters. The record of one, a file, says what it is for: none while
// it is made or removed, spare/NID when anybody may have it, taken/ID when it is
// ID's. To take one is to rename its record, so that at any time it is in one
// of the states and the next process knows in which.
type Pool struct {
	inner   network.Provider
	opts    Options
	records *records
	ids     *locker.Locker
	stop    context.CancelFunc
	workers sync.WaitGroup
	wake    chan struct{} // a worker may have something to do

	mu     sync.Mutex
	made   *sync.Cond // a worker has made one, or failed
	spare  []network.Namespace
	waste  []string        // inner ids to be removed
	older  map[string]bool // ids that the inner Provider had before there was a pool
	took   time.Time       // when one was taken last
	making int             // by workers
	asked  int             // Adds that make one because there was none: workers wait for them
}

var _ network.Provider = (*Pool)(nil)

// Open takes up the spare and taken namespaces of an earlier process with the
// same Dir and begins to fill the pool. The caller must Close it.
func Open(ctx context.Context, inner network.Provider, opts Options) (*Pool, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	opts.Parallel = max(opts.Parallel, 1)
	p := &Pool{inner: inner, opts: opts, ids: locker.New(), older: map[string]bool{}, wake: make(chan struct{}, opts.Parallel)}
	p.made = sync.NewCond(&p.mu)
	var err error
	if p.records, err = openRecords(opts.Dir); err == nil {
		err = p.takeUp(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open network pool: %w", err)
	}
	ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	for range opts.Parallel {
		p.workers.Go(func() { p.work(ctx) })
		p.signal()
	}
	return p, nil
}

// Close stops making namespaces and waits for those being made. Spare ones stay
// for the next process. It closes the inner Provider, if that can be. It is
// idempotent.
func (p *Pool) Close() error {
	p.stop()
	p.workers.Wait()
	if c, ok := p.inner.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Add implements network.Provider. It takes a spare namespace, or makes one if
// there is none.
func (p *Pool) Add(ctx context.Context, id string, opts network.Options) (network.Namespace, error) {
	if err := checkID(id); err != nil {
		return network.Namespace{}, err
	}
	p.ids.Lock(id)
	defer p.unlock(id)
	if err := errors.Join(ctx.Err(), p.free(id)); err != nil {
		return network.Namespace{}, err
	}
	ns, err := p.get(ctx, opts)
	if err == nil {
		err = p.take(ctx, ns, id, opts)
	}
	if err != nil {
		return network.Namespace{}, fmt.Errorf("take network namespace for %s: %w", id, err)
	}
	return network.Namespace{ID: id, Path: ns.Path, Addrs: ns.Addrs}, nil
}

// take makes a spare namespace that of id, and then its options hold: before,
// the next process would take it for a spare one with somebody's rights. Given
// back would be one that nobody has seen, but to do so is another path to test:
// it is removed.
func (p *Pool) take(ctx context.Context, ns network.Namespace, id string, opts network.Options) error {
	err := p.step("take")
	if err == nil {
		err = p.records.take(ns.ID, id)
	}
	if err != nil {
		return errors.Join(err, p.discard(ns.ID))
	}
	if err = errors.Join(p.step("taken"), ctx.Err()); err == nil && opts != (network.Options{}) {
		err = p.inner.Assign(ctx, ns.ID, opts)
	}
	if err != nil {
		return errors.Join(err, p.remove(context.WithoutCancel(ctx), id, ns.ID))
	}
	return nil
}

// unlock gives the lock of an id back; the error is for locks not taken.
func (p *Pool) unlock(id string) { _ = p.ids.Unlock(id) }

// free says with AlreadyExists that an id is taken.
func (p *Pool) free(id string) error {
	p.mu.Lock()
	older := p.older[id]
	p.mu.Unlock()
	if older || p.records.isTaken(id) {
		return fmt.Errorf("take network namespace for %s: %w", id, errdefs.ErrAlreadyExists)
	}
	return nil
}

// get returns a spare namespace that nobody else will get, or makes one: in any
// case if it wants an address of its own choice.
func (p *Pool) get(ctx context.Context, opts network.Options) (network.Namespace, error) {
	defer p.signal()
	if opts.Addr.IsValid() {
		p.ask(1)
		defer p.ask(-1)
		return p.make(ctx, network.Options{Addr: opts.Addr})
	}
	if ns, ok := p.spared(ctx); ok {
		return ns, nil
	}
	p.ask(1)
	defer p.ask(-1)
	ns, err := p.make(ctx, network.Options{})
	if !errdefs.IsResourceExhausted(err) {
		return ns, err
	}
	// The last one may be a worker's.
	p.settle()
	if ns, ok := p.spared(ctx); ok {
		return ns, nil
	}
	return ns, err
}

// spared returns a spare namespace that can be used, if there is one.
func (p *Pool) spared(ctx context.Context) (ns network.Namespace, ok bool) {
	for {
		if ns, ok = p.pop(); !ok || p.check(ctx, ns) {
			return ns, ok
		}
		if err := p.discard(ns.ID); err != nil {
			p.opts.Log.WarnContext(ctx, "discard network namespace", "error", err)
		}
	}
}

func (p *Pool) check(ctx context.Context, ns network.Namespace) bool {
	c, ok := p.inner.(Checker)
	if !ok {
		return true
	}
	err := c.Check(ctx, ns)
	if err != nil {
		p.opts.Log.WarnContext(ctx, "spare network namespace is unusable", "error", err)
	}
	return err == nil
}

// make makes a namespace and its record.
func (p *Pool) make(ctx context.Context, opts network.Options) (network.Namespace, error) {
	ns, err := p.inner.Add(ctx, newID(), opts)
	if err != nil {
		return ns, err
	}
	if err = p.step("record"); err == nil {
		err = p.records.add(ns)
	}
	if err != nil {
		return ns, errors.Join(err, p.discard(ns.ID))
	}
	return ns, nil
}

// Remove implements network.Provider.
func (p *Pool) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	p.ids.Lock(id)
	defer p.unlock(id)
	ns, err := p.records.get(id)
	if errors.Is(err, os.ErrNotExist) {
		return p.removeOlder(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("remove network namespace of %s: %w", id, err)
	}
	return p.remove(ctx, id, ns.ID)
}

// Assign implements network.Provider.
func (p *Pool) Assign(ctx context.Context, id string, opts network.Options) error {
	if err := checkID(id); err != nil {
		return err
	}
	p.ids.Lock(id)
	defer p.unlock(id)
	ns, err := p.records.get(id)
	if errors.Is(err, os.ErrNotExist) {
		return p.inner.Assign(ctx, id, opts) // one from before there was a pool, or none
	}
	if err != nil {
		return fmt.Errorf("assign network namespace of %s: %w", id, err)
	}
	return p.inner.Assign(ctx, ns.ID, opts)
}

// removeOlder removes a namespace from before there was a pool.
func (p *Pool) removeOlder(ctx context.Context, id string) error {
	if err := p.inner.Remove(ctx, id); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.older, id)
	return nil
}

// remove removes a taken namespace, its record last.
func (p *Pool) remove(ctx context.Context, id, inner string) error {
	if err := p.step("remove"); err != nil {
		return err
	}
	if err := p.inner.Remove(ctx, inner); err != nil {
		return err
	}
	if err := p.step("removed"); err != nil {
		return err
	}
	return p.records.forget(id)
}

// Namespaces implements network.Provider. Spare ones are nobody's and not
// listed.
func (p *Pool) Namespaces(ctx context.Context) ([]string, error) {
	ids, err := p.records.ids()
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	made, err := p.inner.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	return append(ids, slices.DeleteFunc(made, ours)...), nil
}

// Spare returns how many namespaces are ready to be taken.
func (p *Pool) Spare() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.spare)
}

func (p *Pool) step(name string) error {
	if p.opts.Failpoint == nil {
		return nil
	}
	return p.opts.Failpoint(name)
}
