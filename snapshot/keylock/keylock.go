// Package keylock has a lock per key that a waiter can give up on.
package keylock

import (
	"context"
	"slices"
	"sync"
)

// Locks are locks by key. The zero value is ready.
type Locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the key is free again
}

// Lock takes the locks of all keys, in their order, so that those who want some of the same do not wait for each other,
// and returns how to give them back. Once ctx has ended it takes none, and returns ctx's cause.
func (l *Locks) Lock(ctx context.Context, keys ...string) (unlock func(), err error) {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	for i, key := range keys {
		if err := l.lock(ctx, key); err != nil {
			l.unlock(keys[:i])
			return nil, err
		}
	}
	return func() { l.unlock(keys) }, nil
}

// TryLock takes the lock of a key if nobody has it; else unlock is nil.
func (l *Locks) TryLock(key string) (unlock func()) {
	if l.try(key) != nil {
		return nil
	}
	return func() { l.unlock([]string{key}) }
}

// Held returns how many locks are taken.
func (l *Locks) Held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

func (l *Locks) lock(ctx context.Context, key string) error {
	for {
		free := l.try(key)
		if free == nil {
			return nil
		}
		select {
		case <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// try takes key, or returns what to wait for.
func (l *Locks) try(key string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if free, ok := l.held[key]; ok {
		return free
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	l.held[key] = make(chan struct{})
	return nil
}

func (l *Locks) unlock(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		close(l.held[key])
		delete(l.held, key)
	}
}
