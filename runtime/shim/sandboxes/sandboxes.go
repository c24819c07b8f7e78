// Package sandboxes hands out containerd sandboxes whose shim is ours, so that a
// new container joins a shim that runs already. It is the caller's side of package shim.
package sandboxes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	kindShim  = "shim" // of our sandboxes
	sandboxer = "shim" // containerd's controller of sandboxes that are shims

	defaultMost = 32
	timeout     = 10 * time.Second // of one change
)

// Options refine a Pool. The zero value of each field is a good default.
type Options struct {
	Runtime string // containerd's name of the runtime; default io.containerd.ctrsnap.v1
	Most    int    // containers in one sandbox, default 32: a shim that dies takes them along
	// Failpoint, if set, is called between the steps that make and remove a sandbox.
	Failpoint func(step string) error
}

// Pool knows the sandboxes and how many containers each has. A context given to
// its methods carries containerd's namespace. It is safe for concurrent use.
type Pool struct {
	store      sandbox.Store
	controller sandbox.Controller
	opts       Options
	wg         sync.WaitGroup

	making chan struct{} // holds one while a sandbox is made; taken before mu

	mu     sync.Mutex
	used   map[string]int // containers by sandbox; a sandbox that died is not in it
	spare  bool           // one is being made ahead
	closed bool
	stop   []context.CancelFunc
}

// New returns a pool. Recover is to be called before anything else.
func New(store sandbox.Store, controller sandbox.Controller, opts Options) *Pool {
	if opts.Runtime == "" {
		opts.Runtime = "io.containerd.ctrsnap.v1"
	}
	if opts.Most == 0 {
		opts.Most = defaultMost
	}
	if opts.Failpoint == nil {
		opts.Failpoint = func(string) error { return nil }
	}
	return &Pool{store: store, controller: controller, opts: opts, used: map[string]int{}, making: make(chan struct{}, 1)}
}

// Used counts the containers of each sandbox.
func Used(ctx context.Context, all containers.Store) (map[string]int, error) {
	list, err := all.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]int{}
	for _, c := range list {
		if c.SandboxID != "" {
			used[c.SandboxID]++
		}
	}
	return used, nil
}

// Recover takes over the sandboxes that are recorded, with the number of
// containers that each has, and removes those whose shim has died.
func (p *Pool) Recover(ctx context.Context, used map[string]int) error {
	list, err := p.store.List(ctx, "labels.\""+snapshot.LabelKind+"\"=="+kindShim)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	var errs []error
	for _, s := range list {
		status, err := p.controller.Status(ctx, s.ID, false)
		if err != nil || status.Pid == 0 {
			errs = append(errs, p.remove(ctx, s.ID))
			continue
		}
		p.adopt(ctx, s.ID, used[s.ID])
	}
	return errors.Join(errs...)
}

// adopt counts a sandbox in until its shim ends.
func (p *Pool) adopt(ctx context.Context, id string, used int) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used[id] = used
	p.stop = append(p.stop, cancel)
	if p.closed { // it was being made
		cancel()
	}
	p.wg.Go(func() {
		_, _ = p.controller.Wait(ctx, id) // an error says that the shim is gone, too
		if ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		delete(p.used, id)
		p.mu.Unlock()
		_ = p.remove(ctx, id) // else Recover does it
	})
}

// Acquire returns the id of a sandbox with room, for one container, and makes one
// if there is none. When it takes the last place, the next sandbox is made ahead.
func (p *Pool) Acquire(ctx context.Context) (string, error) {
	if id := p.take(); id != "" {
		p.ahead(ctx)
		return id, nil
	}
	// A sandbox has room for many: whoever comes meanwhile waits for this one.
	select {
	case p.making <- struct{}{}:
		defer func() { <-p.making }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for a sandbox: %w", ctx.Err())
	}
	if id := p.take(); id != "" {
		return id, nil
	}
	id, err := p.make(ctx, 1)
	if err != nil {
		return "", fmt.Errorf("make sandbox: %w", err)
	}
	return id, nil
}

// Warm makes a sandbox in the background if none has room, so that the first
// container does not wait for it.
func (p *Pool) Warm(ctx context.Context) { p.ahead(ctx) }

// take takes a place in the fullest sandbox that has one, so that others empty.
func (p *Pool) take() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := ""
	for _, id := range slices.Sorted(maps.Keys(p.used)) {
		if n := p.used[id]; n < p.opts.Most && (best == "" || n > p.used[best]) {
			best = id
		}
	}
	if best != "" {
		p.used[best]++
	}
	return best
}

// ahead makes a sandbox in the background if all are full.
func (p *Pool) ahead(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.used {
		if n < p.opts.Most {
			return
		}
	}
	if p.spare || p.closed {
		return
	}
	p.spare = true
	p.wg.Go(func() {
		p.making <- struct{}{}
		defer func() { <-p.making }()
		_, _ = p.make(context.WithoutCancel(ctx), 0) // Acquire tries again, and says so
		p.mu.Lock()
		p.spare = false
		p.mu.Unlock()
	})
}

// make makes a sandbox with its shim. An error leaves nothing behind.
func (p *Pool) make(ctx context.Context, used int) (_ string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	options, err := typeurl.MarshalAny(&emptypb.Empty{})
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	s := sandbox.Sandbox{
		ID: kind.Sandbox.New(), Labels: map[string]string{snapshot.LabelKind: kindShim}, Sandboxer: sandboxer,
		Runtime: sandbox.RuntimeOpts{Name: p.opts.Runtime, Options: options}, CreatedAt: now, UpdatedAt: now,
	}
	if _, err := p.store.Create(ctx, s); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.remove(ctx, s.ID))
		}
	}()
	if err := p.opts.Failpoint("recorded"); err != nil {
		return "", err
	}
	if err := p.controller.Create(ctx, s); err != nil {
		return "", err
	}
	if err := p.opts.Failpoint("created"); err != nil {
		return "", err
	}
	if _, err := p.controller.Start(ctx, s.ID); err != nil {
		return "", err
	}
	if err := p.opts.Failpoint("started"); err != nil {
		return "", err
	}
	p.adopt(ctx, s.ID, used)
	return s.ID, nil
}

// Release gives a place back, when the container is deleted. A sandbox that gets
// empty is removed, if another one has room.
func (p *Pool) Release(ctx context.Context, id string) error {
	if !p.give(id) {
		return nil
	}
	return p.remove(ctx, id)
}

// give says whether the sandbox is to go.
func (p *Pool) give(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, ok := p.used[id]
	if !ok || n == 0 {
		return false
	}
	p.used[id] = n - 1
	if n > 1 {
		return false
	}
	for other, n := range p.used {
		if other != id && n < p.opts.Most {
			delete(p.used, id)
			return true
		}
	}
	return false
}

// remove ends the shim and removes the record. It is idempotent.
func (p *Pool) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := p.controller.Shutdown(ctx, id); err != nil && !ended(err) {
		return fmt.Errorf("end sandbox %s: %w", id, err)
	}
	if err := p.opts.Failpoint("ended"); err != nil {
		return fmt.Errorf("delete record of sandbox %s: %w", id, err)
	}
	if err := p.store.Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete record of sandbox %s: %w", id, err)
	}
	return nil
}

// ended says that an error of Shutdown means that the shim is no more. One that ends
// may close its connection before its answer is out, and the controller makes no known
// class of that.
func ended(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) || errors.Is(err, ttrpc.ErrClosed) ||
		strings.HasSuffix(err.Error(), ttrpc.ErrClosed.Error())
}

// Drain removes all sandboxes without containers: for the end of a daemon that
// leaves nothing, or of a test.
func (p *Pool) Drain(ctx context.Context) error {
	p.mu.Lock()
	var empty []string
	for id, n := range p.used {
		if n == 0 {
			empty = append(empty, id)
			delete(p.used, id)
		}
	}
	p.mu.Unlock()
	var errs []error
	for _, id := range empty {
		errs = append(errs, p.remove(ctx, id))
	}
	return errors.Join(errs...)
}

// Close forgets the sandboxes, which stay, and waits for what runs in the
// background. It is idempotent.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	for _, cancel := range p.stop {
		cancel()
	}
	p.stop = nil
	p.mu.Unlock()
	p.wg.Wait()
}
