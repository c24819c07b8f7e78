package manager

import (
	"context"
	"slices"
	"sync"
)

// keyedLock is a lock per key. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when the key is free again
}

// lock takes all keys, in their order, and returns how to free them.
func (l *keyedLock) lock(ctx context.Context, keys []string) (unlock func(), err error) {
	keys = slices.Sorted(slices.Values(keys))
	for i, key := range keys {
		if err := l.lockOne(ctx, key); err != nil {
			l.unlock(keys[:i])
			return nil, err
		}
	}
	return func() { l.unlock(keys) }, nil
}

func (l *keyedLock) lockOne(ctx context.Context, key string) error {
	for {
		free := l.try(key)
		if free == nil {
			return nil
		}
		select {
		case <-free:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// try takes key, or returns what to wait for.
func (l *keyedLock) try(key string) <-chan struct{} {
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

func (l *keyedLock) unlock(keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		close(l.held[key])
		delete(l.held, key)
	}
}
