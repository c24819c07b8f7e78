package sandboxes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startTime is how long a shim takes to start here.
const startTime = 50 * time.Millisecond

// world is containerd's records of sandboxes and the shims that run.
type world struct {
	mu      sync.Mutex
	records map[string]sandbox.Sandbox
	shims   map[string]chan struct{} // closed when the shim ends
	started int
	atOnce  int // shims that are being started
	most    int
	fail    map[string]bool // operations that fail
}

func newWorld() *world {
	return &world{records: map[string]sandbox.Sandbox{}, shims: map[string]chan struct{}{}, fail: map[string]bool{}}
}

var errBoom = errors.New("boom")

// at is the start of each operation.
func (w *world) at(ctx context.Context, op string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail[op] {
		return errBoom
	}
	return ctx.Err()
}

// kill ends a shim.
func (w *world) kill(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.shims[id])
	delete(w.shims, id)
}

// left returns the records and the shims that there are.
func (w *world) left() (records, shims []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.records)), slices.Sorted(maps.Keys(w.shims))
}

func (w *world) wantLeft(t *testing.T, want int) {
	t.Helper()
	synctest.Wait()
	if records, shims := w.left(); len(records) != want || !slices.Equal(records, shims) {
		t.Errorf("records %v and shims %v, want %d of each", records, shims, want)
	}
}

type store struct {
	sandbox.Store
	*world
}

func (s store) Create(ctx context.Context, b sandbox.Sandbox) (sandbox.Sandbox, error) {
	if err := s.at(ctx, "record"); err != nil {
		return b, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.Labels[snapshot.LabelKind] != kindShim || b.Sandboxer != sandboxer || b.Runtime.Name == "" {
		return b, fmt.Errorf("odd sandbox %+v", b)
	}
	s.records[b.ID] = b
	return b, nil
}

func (s store) List(ctx context.Context, filters ...string) ([]sandbox.Sandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(filters) != 1 || filters[0] != `labels."ctrsnap.io/kind"==shim` {
		return nil, fmt.Errorf("filters %q", filters)
	}
	return slices.Collect(maps.Values(s.records)), ctx.Err()
}

func (s store) Delete(ctx context.Context, id string) error {
	if err := s.at(ctx, "delete"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.records[id]; !ok {
		return errdefs.ErrNotFound
	}
	delete(s.records, id)
	return nil
}

type controller struct {
	sandbox.Controller
	*world
}

func (c controller) Create(ctx context.Context, _ sandbox.Sandbox, _ ...sandbox.CreateOpt) error {
	return c.at(ctx, "create")
}

func (c controller) Start(ctx context.Context, id string) (sandbox.ControllerInstance, error) {
	if err := c.at(ctx, "start"); err != nil {
		return sandbox.ControllerInstance{}, err
	}
	c.count(1)
	<-time.After(startTime)
	c.count(-1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.started++
	c.shims[id] = make(chan struct{})
	return sandbox.ControllerInstance{}, nil
}

func (c controller) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.atOnce += n
	c.most = max(c.most, c.atOnce)
}

func (c controller) Wait(ctx context.Context, id string) (sandbox.ExitStatus, error) {
	c.mu.Lock()
	ended := c.shims[id]
	c.mu.Unlock()
	if ended == nil {
		return sandbox.ExitStatus{}, errdefs.ErrNotFound
	}
	select {
	case <-ended:
		return sandbox.ExitStatus{}, nil
	case <-ctx.Done():
		return sandbox.ExitStatus{}, ctx.Err()
	}
}

func (c controller) Status(ctx context.Context, id string, _ bool) (sandbox.ControllerStatus, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shims[id] == nil {
		return sandbox.ControllerStatus{}, errdefs.ErrNotFound
	}
	return sandbox.ControllerStatus{Pid: 1}, ctx.Err()
}

func (c controller) Shutdown(ctx context.Context, id string) error {
	if err := c.at(ctx, "shutdown"); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shims[id] == nil {
		return errdefs.ErrNotFound
	}
	close(c.shims[id])
	delete(c.shims, id)
	if c.fail["answer"] { // in containerd's words, which lose the class
		return fmt.Errorf("failed to shutdown sandbox: %v", ttrpc.ErrClosed) //nolint:errorlint // as it is
	}
	return nil
}

// pooled runs a test in fake time with shims of two containers at most.
func pooled(t *testing.T, test func(t *testing.T, w *world, p *Pool)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		test(t, w, w.pool(t))
	})
}

func (w *world) pool(t *testing.T) *Pool {
	p := New(store{world: w}, controller{world: w}, Options{Most: 2})
	t.Cleanup(p.Close)
	return p
}

func acquire(t *testing.T, p *Pool) string {
	t.Helper()
	id, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// A shim serves so many and no more; the next one is there before it is needed,
// the fullest is taken first, and one that nobody uses goes when another has room.
func TestPlaces(t *testing.T) {
	pooled(t, func(t *testing.T, w *world, p *Pool) {
		first := acquire(t, p)
		begun := time.Now()
		if again := acquire(t, p); again != first || time.Since(begun) != 0 {
			t.Errorf("%s after %s", again, first)
		}
		after(time.Second) // it is full: the next one is made ahead
		w.wantLeft(t, 2)
		begun = time.Now()
		second := acquire(t, p)
		if second == first || time.Since(begun) != 0 {
			t.Error("a shim has more than it may, or somebody waited for the next one")
		}
		must(t, p.Release(t.Context(), first))
		must(t, p.Release(t.Context(), second)) // empty, and the other one has room
		w.wantLeft(t, 1)
		if third := acquire(t, p); third != first {
			t.Errorf("%s, not the one that is there", third)
		}
		after(time.Second) // it is full again
		must(t, p.Release(t.Context(), first))
		must(t, p.Release(t.Context(), first))
		must(t, p.Release(t.Context(), first)) // once too often
		must(t, p.Release(t.Context(), "nobody's"))
		after(time.Second)
		w.wantLeft(t, 1) // the last one, or the one made ahead, stays warm
		must(t, p.Drain(t.Context()))
		w.wantLeft(t, 0)
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

// However many ask at once, shims are started one by one, and never more than needed.
func TestManyAtOnce(t *testing.T) {
	pooled(t, func(t *testing.T, w *world, p *Pool) {
		p.Warm(t.Context())
		p.Warm(t.Context())
		var mu sync.Mutex
		places := map[string]int{}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				id, err := p.Acquire(t.Context())
				must(t, err)
				mu.Lock()
				places[id]++
				mu.Unlock()
			})
		}
		wg.Wait()
		after(time.Second)
		if len(places) != 5 || w.most != 1 || w.started > 6 {
			t.Errorf("places %v; %d shims, %d started at once", places, w.started, w.most)
		}
		for id, n := range places {
			if n > 2 {
				t.Errorf("%s has %d", id, n)
			}
		}
	})
}

func TestWarm(t *testing.T) {
	pooled(t, func(t *testing.T, w *world, p *Pool) {
		p.Warm(t.Context())
		after(time.Second)
		begun := time.Now()
		acquire(t, p)
		p.Warm(t.Context())
		after(time.Second)
		if w.started != 1 || time.Since(begun) != time.Second {
			t.Errorf("%d started", w.started)
		}
	})
}

// What fails leaves nothing behind, and is tried anew.
func TestFailures(t *testing.T) {
	for _, op := range []string{"record", "create", "start"} {
		t.Run(op, func(t *testing.T) {
			pooled(t, func(t *testing.T, w *world, p *Pool) {
				w.fail[op] = true
				p.Warm(t.Context())
				if _, err := p.Acquire(t.Context()); !errors.Is(err, errBoom) {
					t.Errorf("got %v", err)
				}
				after(time.Second)
				w.wantLeft(t, 0)
				delete(w.fail, op)
				acquire(t, p)
				w.wantLeft(t, 1)
			})
		})
	}
	t.Run("answer", func(t *testing.T) { // of a shim that has ended
		pooled(t, func(t *testing.T, w *world, p *Pool) {
			must(t, p.Release(t.Context(), acquire(t, p)))
			w.fail["answer"] = true
			must(t, p.Drain(t.Context()))
			w.wantLeft(t, 0)
		})
	})
	t.Run("shutdown", func(t *testing.T) {
		pooled(t, func(t *testing.T, w *world, p *Pool) {
			id := acquire(t, p)
			must(t, p.Release(t.Context(), id))
			w.fail["shutdown"] = true
			if err := p.Drain(t.Context()); !errors.Is(err, errBoom) {
				t.Errorf("got %v", err)
			}
			delete(w.fail, "shutdown")
			p.Close()
			next := w.pool(t) // the next daemon finds it
			must(t, next.Recover(t.Context(), nil))
			must(t, next.Drain(t.Context()))
			w.wantLeft(t, 0)
		})
	})
}

// A shim that dies is forgotten: nobody is sent there any more, and its record goes.
func TestShimDies(t *testing.T) {
	pooled(t, func(t *testing.T, w *world, p *Pool) {
		dead := acquire(t, p)
		w.kill(dead)
		after(time.Second)
		w.wantLeft(t, 0)
		if id := acquire(t, p); id == dead {
			t.Error("a container is sent to a dead shim")
		}
		must(t, p.Release(t.Context(), dead)) // of the container that died with it
		w.wantLeft(t, 1)
	})
}

// The next daemon takes over the shims that run, with what they have, and clears
// away those that died meanwhile.
func TestRecover(t *testing.T) {
	pooled(t, func(t *testing.T, w *world, p *Pool) {
		full := acquire(t, p)
		acquire(t, p)
		after(time.Second)
		half := acquire(t, p)
		p.Close()
		p.Close()
		w.wantLeft(t, 2)
		dead := "sdead"
		w.records[dead] = sandbox.Sandbox{ID: dead}

		next := w.pool(t)
		must(t, next.Recover(t.Context(), map[string]int{full: 2, half: 1}))
		w.wantLeft(t, 2)
		if id := acquire(t, next); id != half {
			t.Errorf("%s has room, got %s", half, id)
		}
		after(time.Second)
		if w.started != 3 { // both were full
			t.Errorf("%d shims were started", w.started)
		}
		must(t, next.Drain(t.Context()))
		w.wantLeft(t, 2) // those in use stay
		w.kill(full)
		after(time.Second)
		w.wantLeft(t, 1)
	})
}

// Close waits for a shim that is being started; it is there for the next daemon.
func TestCloseWhileStarting(t *testing.T) {
	pooled(t, func(t *testing.T, w *world, p *Pool) {
		p.Warm(t.Context())
		synctest.Wait()
		p.Close()
		w.wantLeft(t, 1)
		p.Warm(t.Context())
		after(time.Second)
		w.wantLeft(t, 1)
	})
}
