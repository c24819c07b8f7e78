package build

import (
	"context"
	"sync"
)

// keyLocks are locks by key that a waiter can give up on.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	token chan struct{}
	users int // holder and waiters
}

// lock takes the lock of key. It calls waiting if it has to wait.
func (l *keyLocks) lock(ctx context.Context, key string, waiting func()) (unlock func(), err error) {
	k := l.join(key)
	unlock = func() { <-k.token; l.leave(key) }
	select {
	case k.token <- struct{}{}:
		return unlock, nil
	default:
	}
	waiting()
	select {
	case k.token <- struct{}{}:
		return unlock, nil
	case <-ctx.Done():
		l.leave(key)
		return nil, ctx.Err()
	}
}

func (l *keyLocks) join(key string) *keyLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[key]
	if k == nil {
		k = &keyLock{token: make(chan struct{}, 1)}
		l.held[key] = k
	}
	k.users++
	return k
}

func (l *keyLocks) leave(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.held[key]
	if k.users--; k.users == 0 {
		delete(l.held, key)
	}
}
