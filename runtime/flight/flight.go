// Package flight lets those who ask for the same thing at the same time share one answer.
package flight

import (
	"context"
	"sync"
)

// Group is work by key. The zero value is ready. It is safe for concurrent use.
type Group[T any] struct {
	mu   sync.Mutex
	runs map[string]*run[T]
}

// run is one piece of work. Its answer may be read once done is closed.
type run[T any] struct {
	waiting int // under the group's lock
	cancel  context.CancelCauseFunc
	done    chan struct{}
	value   T
	err     error
}

// Do returns what work returns for key; if it is at work for somebody already, that one's answer. The context of work has
// the values of the one who began it, and ends when nobody waits any more.
func (g *Group[T]) Do(ctx context.Context, key string, work func(context.Context) (T, error)) (T, error) {
	r := g.join(ctx, key, work)
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		g.leave(key, r, context.Cause(ctx))
		var none T
		return none, context.Cause(ctx)
	}
}

func (g *Group[T]) join(ctx context.Context, key string, work func(context.Context) (T, error)) *run[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.runs[key]; r != nil {
		r.waiting++
		return r
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	r := &run[T]{waiting: 1, cancel: cancel, done: make(chan struct{})}
	if g.runs == nil {
		g.runs = map[string]*run[T]{}
	}
	g.runs[key] = r
	go func() {
		r.value, r.err = work(ctx)
		g.forget(key, r)
		cancel(nil)
		close(r.done)
	}()
	return r
}

// leave ends the work if nobody else waits for it. Who asks next begins anew.
func (g *Group[T]) leave(key string, r *run[T], why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.waiting--; r.waiting > 0 {
		return
	}
	r.cancel(why)
	if g.runs[key] == r {
		delete(g.runs, key)
	}
}

func (g *Group[T]) forget(key string, r *run[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.runs[key] == r {
		delete(g.runs, key)
	}
}
