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

// rest is how long the workers leave the machine to whoever took a namespace, as
// long as half of them are there: making one takes the kernel's lock for links, and a
// core for some milliseconds.
const rest = 100 * time.Millisecond

// work fills the pool and removes waste until ctx ends.
func (p *Pool) work(ctx context.Context) {
	for ctx.Err() == nil {
		job, after := p.next()
		if job == nil {
			p.waitFor(ctx, after)
			continue
		}
		if err := job(ctx); err != nil && ctx.Err() == nil {
			p.opts.Log.WarnContext(ctx, "fill network pool", "error", err)
			p.waitFor(ctx, retryAfter)
		}
	}
}

// waitFor waits to be woken, for the given time at most unless it is 0.
func (p *Pool) waitFor(ctx context.Context, most time.Duration) {
	var over <-chan time.Time
	if most > 0 {
		t := time.NewTimer(most)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-ctx.Done():
	case <-p.wake:
	case <-over:
	}
}

// signal wakes a worker. That the channel is full says that all will wake.
func (p *Pool) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// next returns what is to be done, or nil: nothing, or not now, because somebody
// waits for a namespace and the kernel makes one at a time, or has just taken one.
// Then it returns when to ask again.
func (p *Pool) next() (job func(context.Context) error, after time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.asked > 0:
		return nil, 0
	case len(p.spare)+p.making < p.opts.Size:
		if after := rest - time.Since(p.took); after > 0 && len(p.spare)+p.making > p.opts.Size/2 {
			return nil, after
		}
		p.making++
		return p.fill, 0
	case len(p.waste) > 0:
		id := p.waste[0]
		p.waste = p.waste[1:]
		return func(ctx context.Context) error { return p.clear(ctx, id) }, 0
	}
	return nil, 0
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
	p.took = time.Now()
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
