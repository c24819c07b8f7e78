package removal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// trash is what there is to remove. Each takes a second, and fails as often as fails says.
type trash struct {
	mu       sync.Mutex
	fails    map[string]int
	now      int // removals under way
	most     int
	removed  []string
	unending bool // a removal waits for its context
}

func (r *trash) remove(ctx context.Context, id string) error {
	r.mu.Lock()
	r.now++
	r.most = max(r.most, r.now)
	unending := r.unending
	r.mu.Unlock()
	if unending {
		<-ctx.Done()
	} else {
		<-time.After(time.Second)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now--
	if r.fails[id] > 0 {
		r.fails[id]--
		return errors.New("busy")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.removed = append(r.removed, id)
	return nil
}

// fail has the next n tries for an id fail.
func (r *trash) fail(id string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fails[id] = n
}

func (r *trash) gone() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.removed))
}

// inFakeTime runs a test with a Queue that removes two at a time.
func inFakeTime(t *testing.T, test func(t *testing.T, q *Queue, r *trash)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &trash{fails: map[string]int{}}
		q := New(Options{Remove: r.remove, Timeout: time.Minute, Parallel: 2, Log: slog.New(slog.DiscardHandler)})
		defer q.Close()
		test(t, q, r)
	})
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func drain(t *testing.T, q *Queue) {
	t.Helper()
	if err := q.Drain(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestUntilGone(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		r.fail("b", 3)
		q.Own("other")
		a, b := q.Remove("a"), q.Remove("b")
		if q.Remove("a") != a {
			t.Error("removed twice at a time")
		}
		if !q.Owned()["a"] || q.Pending() != 2 {
			t.Errorf("owned %v, pending %d", q.Owned(), q.Pending())
		}
		<-a
		synctest.Wait()
		if isClosed(b) || !slices.Equal(r.gone(), []string{"a"}) {
			t.Errorf("after a second: %v gone, b as well: %t", r.gone(), isClosed(b))
		}
		drain(t, q)
		if !isClosed(b) || q.Pending() > 0 || len(q.Owned()) != 1 || !q.Owned()["other"] {
			t.Errorf("drained: %t, %d pending, owned %v", isClosed(b), q.Pending(), q.Owned())
		}
		if q.Disown("other"); len(q.Owned()) > 0 {
			t.Errorf("owned %v", q.Owned())
		}
	})
}

func TestParallel(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		for i := range 9 {
			q.Remove(strconv.Itoa(i))
		}
		drain(t, q)
		if r.most != 2 || len(r.gone()) != 9 {
			t.Errorf("%d at a time, %v gone", r.most, r.gone())
		}
	})
}

// TestBacklog: nothing is made while too many wait. Those that fail do not count: they may do so for ever.
func TestBacklog(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		for i := range 2 * maxBacklog {
			id := strconv.Itoa(i)
			r.fail(id, 1000)
			q.Remove(id)
		}
		if err := q.Await(t.Context()); err != nil {
			t.Error(err)
		}
		q.Remove("one more")
		begun := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := q.Await(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		if err := q.Await(t.Context()); err != nil || time.Since(begun) == 0 {
			t.Errorf("waited %s, %v", time.Since(begun), err)
		}
		<-time.After(time.Hour)
		if err := q.Await(t.Context()); err != nil || q.Pending() != 2*maxBacklog {
			t.Errorf("%d fail on, %v", q.Pending(), err)
		}
	})
}

func TestDrainAndWait(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		r.fail("a", 1000)
		a := q.Remove("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := q.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who waited a minute got %v", err)
		}
		begun := time.Now()
		q.Wait(5*time.Second, a, a)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("waited %s", took)
		}
		q.Wait(time.Hour, q.Remove("b"))
		if !slices.Equal(r.gone(), []string{"b"}) {
			t.Errorf("%v gone", r.gone())
		}
	})
}

// TestClose: what has begun is ended, what has not is left, and nobody waits for it.
func TestClose(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		q.Remove("a")
		q.Remove("b")
		synctest.Wait()
		left := q.Remove("c")
		q.Close()
		if !slices.Equal(r.gone(), []string{"a", "b"}) || isClosed(left) {
			t.Errorf("%v gone, c as well: %t", r.gone(), isClosed(left))
		}
		drain(t, q)
		q.Wait(time.Hour, left)
		if !isClosed(q.Remove("d")) || q.Pending() != 1 {
			t.Errorf("taken when it was closed; %d pending", q.Pending())
		}
	})
}

// TestTimeout: a try that hangs is given up, and tried again.
func TestTimeout(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		r.unending = true
		done := q.Remove("a")
		<-time.After(59 * time.Second)
		r.mu.Lock()
		r.unending = false
		r.mu.Unlock()
		<-done
		if !slices.Equal(r.gone(), []string{"a"}) {
			t.Errorf("%v gone", r.gone())
		}
	})
}

func TestRetry(t *testing.T) {
	inFakeTime(t, func(t *testing.T, q *Queue, r *trash) {
		taken := errors.New("taken")
		var tries int
		do := func() error {
			if tries++; len(r.gone()) == 0 {
				return taken
			}
			return nil
		}
		isTaken := func(err error) bool { return errors.Is(err, taken) }
		if err := q.Retry(t.Context(), do, isTaken); !errors.Is(err, taken) || tries != 1 {
			t.Errorf("with nothing on its way out: %v, %d tries", err, tries)
		}
		q.Remove("a")
		if err := q.Retry(t.Context(), do, func(error) bool { return false }); !errors.Is(err, taken) || tries != 2 {
			t.Errorf("of another kind: %v, %d tries", err, tries)
		}
		if err := q.Retry(t.Context(), do, isTaken); err != nil || tries != 4 {
			t.Errorf("with one on its way out: %v, %d tries", err, tries)
		}
	})
}
