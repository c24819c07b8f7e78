package manager

import (
	"context"
	"sync"
)

// gate lets requests in until it is closed, which ends those that are inside.
type gate struct {
	ctx   context.Context // ends when the gate is closed
	close context.CancelFunc

	mu     sync.Mutex // held while one enters, and while the gate is being closed
	inside sync.WaitGroup
}

func newGate() *gate {
	g := &gate{}
	ctx, cancel := context.WithCancel(context.Background())
	g.ctx, g.close = ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		cancel()
	}
	return g
}

// enter returns a context that ends, with errClosing as its cause, when the gate is closed. The caller must leave.
func (g *gate) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx.Err() != nil {
		return nil, nil, errClosing
	}
	g.inside.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(g.ctx, func() { cancel(errClosing) })
	return ctx, func() { unlink(); cancel(nil); g.inside.Done() }, nil
}

// wait waits until the gate is closed and nobody is inside.
func (g *gate) wait() {
	<-g.ctx.Done()
	g.inside.Wait()
}
