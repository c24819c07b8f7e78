package base

import (
	"context"
	"sync"
)

// locks is a lock per name. The zero value is ready to use.
type locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when released
}

// lock waits until name is free and returns the function that releases it, or
// the context's error.
func (l *locks) lock(ctx context.Context, name string) (func(), error) {
	for {
		busy, unlock := l.try(name)
		if busy == nil {
			return unlock, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// try returns either what to wait for or the function that releases name.
func (l *locks) try(name string) (<-chan struct{}, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if busy, ok := l.held[name]; ok {
		return busy, nil
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	mine := make(chan struct{})
	l.held[name] = mine
	return nil, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.held, name)
		close(mine)
	}
}
