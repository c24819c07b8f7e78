package manager

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// bootTime is how long a clone takes to be made in the tests of overload.
const bootTime = time.Second

// overloaded runs a test in fake time: four clones are made at a time, each in
// bootTime. sizes are those of pools.
func overloaded(t *testing.T, sizes map[string]int, test func(t *testing.T, w *world, m *Manager, most *int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.goldens["other"] = []snapshot.Golden{{Name: "other", Version: 1, Description: snapshot.Description{Engine: "fake"}}}
		var making, most int
		w.ready = func(ctx context.Context, _ runtime.Endpoint, _ <-chan struct{}) error {
			w.mu.Lock()
			making++
			most = max(most, making)
			w.mu.Unlock()
			<-time.After(bootTime)
			w.mu.Lock()
			making--
			w.mu.Unlock()
			return ctx.Err()
		}
		w.pool = Pool{Max: 20, Parallel: 2, Sizes: &fakeSizes{sizes: sizes}}
		w.parallel = 4
		m, _ := w.manager(t)
		test(t, w, m, &most)
	})
}

// While more is asked for than can be made, each slot is used, never more than
// there are, users get the same share, and the pool of what nobody queues for fills.
func TestOverload(t *testing.T) {
	overloaded(t, map[string]int{"shop": 3, "other": 3}, func(t *testing.T, w *world, m *Manager, most *int) {
		if err := m.RefreshPool(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		got := map[int]int{}
		var wg sync.WaitGroup
		for i := range 24 {
			uid := 1 + min(i, 1) // one caller of user 1, the others of user 2
			who := access.User("", uid, os.Getgid())
			wg.Go(func() {
				for ctx.Err() == nil {
					resp, err := m.Create(ctx, who, api.CloneRequest{Golden: "shop"})
					if err != nil {
						return
					}
					mu.Lock()
					got[uid]++
					mu.Unlock()
					if err := m.Remove(ctx, access.Daemon, resp.Clones[0].ID, false); err != nil {
						t.Error(err)
					}
				}
			})
		}
		after(60 * time.Second)
		mu.Lock()
		sum := got[1] + got[2]
		if sum < 60*4-12 { // but for the other golden's members, and those that are being made
			t.Errorf("%d clones in a minute, with room for 240", sum)
		}
		if got[1] < 25 { // a clone and a turn, each time
			t.Errorf("of %v clones the one caller of user 1 got too few", got)
		}
		mu.Unlock()
		w.mu.Lock()
		if *most > 4 {
			t.Errorf("%d were made at a time", *most)
		}
		w.mu.Unlock()
		for _, p := range poolsOf(t, m) {
			if p.Golden == "other" && p.Ready != 3 {
				t.Errorf("the pool that nobody asks did not fill: %+v", p)
			}
		}
		stop()
		wg.Wait()
		after(time.Minute)
		for _, p := range poolsOf(t, m) {
			if p.Version > 0 && p.Wanted == 3 && p.Ready != 3 {
				t.Errorf("after the storm: %+v", p)
			}
		}
	})
}

func poolsOf(t *testing.T, m *Manager) []api.Pool {
	t.Helper()
	list, err := m.Pools(t.Context(), access.Daemon)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A member that was begun when a caller came is his, not the next one's.
func TestMemberGoesToWhoWaits(t *testing.T) {
	overloaded(t, map[string]int{"shop": 1}, func(t *testing.T, w *world, m *Manager, _ *int) {
		if err := m.RefreshPool(t.Context()); err != nil {
			t.Fatal(err)
		}
		after(bootTime / 2) // a member has a slot
		settings := api.CloneRequest{Golden: "shop", Count: 3, Settings: map[string]string{"a": "b"}}
		go func() { _, _ = m.Create(context.Background(), caller, settings) }() // they take the others
		synctest.Wait()
		if n := len(w.containers); n != 4 {
			t.Fatalf("%d are being made", n)
		}
		first := make(chan api.Clone, 1)
		go func() {
			resp, err := m.Create(context.Background(), caller, api.CloneRequest{Golden: "shop"})
			if err != nil {
				t.Error(err)
			}
			first <- resp.Clones[0]
		}()
		after(bootTime/2 + time.Millisecond)
		select {
		case c := <-first:
			if _, claimed := c.Timings[api.StageClaim]; !claimed {
				t.Errorf("it was made for him: %v", c.Timings)
			}
		default:
			t.Error("he waits still")
			<-first
		}
		after(time.Minute)
	})
}

// Where clones go more slowly than they are made, making them waits.
func TestBacklog(t *testing.T) {
	overloaded(t, nil, func(t *testing.T, w *world, m *Manager, _ *int) {
		stuck := make(chan struct{})
		w.before = func(op string, _ int) error {
			if op == "network.Remove" {
				<-stuck
			}
			return nil
		}
		limit := 8*4 + 1 // eight for each that is torn down at a time
		for range limit {
			begun := time.Now()
			c := create(t, m, api.CloneRequest{}).Clones[0]
			made := time.Now()
			if err := m.Remove(t.Context(), access.Daemon, c.ID, false); err != nil {
				t.Fatal(err)
			}
			if time.Since(made) != 0 || made.Sub(begun) > 2*bootTime {
				t.Fatal("it had to wait")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := m.Create(ctx, caller, api.CloneRequest{Golden: "shop"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with %d clones to be torn down: %v", limit, err)
		}
		if n := len(slices.Collect(maps.Keys(w.containers))); n > limit {
			t.Errorf("%d containers", n)
		}
		close(stuck)
		create(t, m, api.CloneRequest{})
		drain(t, m)
	})
}
