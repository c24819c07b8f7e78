package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks
		unlock := mustLock(t, &l, "a", "b")
		if l.TryLock("b") != nil {
			t.Error("a key was taken twice")
		}
		if free := l.TryLock("c"); free == nil {
			t.Error("a free key was not taken")
		} else {
			free()
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		waiter := make(chan error)
		go func() {
			_, err := l.Lock(ctx, "c", "b")
			waiter <- err
		}()
		synctest.Wait()
		gone := errors.New("gone")
		cancel(gone)
		if err := <-waiter; !errors.Is(err, gone) {
			t.Errorf("who gave up got %v", err)
		}
		unlock()
		mustLock(t, &l, "a", "b", "b", "c")() // a key of the one who gave up is free again
		if n := l.Held(); n > 0 {
			t.Errorf("%d locks are held by nobody", n)
		}
	})
}

// TestOrder: those who want the same keys in other orders do not wait for each other for ever.
func TestOrder(t *testing.T) {
	var l Locks
	var in, most int
	var wg sync.WaitGroup
	for i := range 100 {
		keys := []string{"a", "b"}
		if i%2 == 0 {
			keys = []string{"b", "a"}
		}
		wg.Go(func() {
			unlock := mustLock(t, &l, keys...)
			in++
			most = max(most, in)
			in--
			unlock()
		})
	}
	wg.Wait()
	if most != 1 {
		t.Errorf("%d had the same locks at a time", most)
	}
}

func mustLock(t *testing.T, l *Locks, keys ...string) (unlock func()) {
	t.Helper()
	unlock, err := l.Lock(t.Context(), keys...)
	if err != nil {
		t.Error(err)
		return func() {}
	}
	return unlock
}
