package pool

import (
	"context"
	"fmt"
	"time"

	"github.com/ctrsnap/ctrsnap/network"
)

// retryAfter is how long a worker waits that could not make or remove one,
// unless it is woken.
const retryAfter = 5 * time.Second

// work fills the pool and removes waste until ctx ends.
func (p *Pool) work(ctx context.Context) {
	for ctx.Err() == nil {
		job := p.next()
		if job == nil {
			p.wait(ctx, nil)
			continue
		}
		if err := job(ctx); err != nil && ctx.Err() == nil {
			p.opts.Log.WarnContext(ctx, "fill network pool", "error", err)
			retry := time.NewTimer(retryAfter)
			p.wait(ctx, retry.C)
			retry.Stop()
		}
	}
}

func (p *Pool) wait(ctx context.Context, retry <-chan time.Time) {
	select {
	case <-ctx.Done():
	case <-p.wake:
	case <-retry:
	}
}

// signal wakes a worker. That the channel is full says that all will wake.
func (p *Pool) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// next returns what is to be done, or nil: nothing, or not now, because
// somebody waits for a namespace and the kernel makes one at a time.
func (p *Pool) next() func(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.asked > 0:
		return nil
	case len(p.spare)+p.making < p.opts.Size:
		p.making++
		return p.fill
	case len(p.waste) > 0:
		id := p.waste[0]
		p.waste = p.waste[1:]
		return func(ctx context.Context) error { return p.clear(ctx, id) }
	}
	return nil
}

func (p *Pool) fill(ctx context.Context) error {
	ns, err := p.make(ctx, network.Options{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.making--
	p.made.Broadcast()
	if err != nil {
		return err
	}
	p.spare = append(p.spare, ns)
	return nil
}

func (p *Pool) clear(ctx context.Context, id string) error {
	err := p.inner.Remove(ctx, id)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waste = append(p.waste, id)
		return fmt.Errorf("remove unusable network namespace: %w", err)
	}
	return nil
}

// discard has a worker remove a namespace that nobody has.
func (p *Pool) discard(inner string) error {
	// The record first: half removed, it is not to be found spare.
	if err := p.records.drop(inner); err != nil {
		return err
	}
	p.mu.Lock()
	p.waste = append(p.waste, inner)
	p.mu.Unlock()
	p.signal()
	return nil
}

// pop takes the spare namespace that was made last out of the list.
func (p *Pool) pop() (ns network.Namespace, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.spare) == 0 {
		return ns, false
	}
	ns = p.spare[len(p.spare)-1]
	p.spare = p.spare[:len(p.spare)-1]
	return ns, true
}

// ask counts those who make a namespace for themselves.
func (p *Pool) ask(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked += n
}

// settle waits for the workers that are making one.
func (p *Pool) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.making > 0 {
		p.made.Wait()
	}
}
