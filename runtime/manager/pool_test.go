package manager

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// fakeSizes keeps sizes of pools as a store does.
type fakeSizes struct {
	mu    sync.Mutex
	sizes map[string]int
}

func (f *fakeSizes) PoolSizes(context.Context) (map[string]int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.sizes), nil
}

func (f *fakeSizes) SetPoolSize(_ context.Context, name string, size int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if size < 0 {
		delete(f.sizes, name)
	} else {
		f.sizes[name] = size
	}
	return nil
}

// pooled runs a test in fake time, with a pool of size clones of shop that is full.
func pooled(t *testing.T, size int, test func(t *testing.T, w *world, m *Manager)) {
	t.Helper()
	life(t, func(t *testing.T, w *world, unused *Manager) {
		if err := unused.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.pool = Pool{Max: 20, Parallel: 2, Sizes: &fakeSizes{sizes: map[string]int{"shop": size}}}
		m, _ := w.manager(t)
		refresh(t, m)
		test(t, w, m)
	})
}

// refresh starts the pool and lets it do all there is to do.
func refresh(t *testing.T, m *Manager) {
	t.Helper()
	if err := m.RefreshPool(t.Context()); err != nil {
		t.Fatal(err)
	}
	after(10 * time.Second)
}

func poolOf(t *testing.T, m *Manager, version int) api.Pool {
	t.Helper()
	list, err := m.Pools(t.Context(), access.Daemon)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.Version == version {
			return p
		}
	}
	return api.Pool{}
}

func TestClaim(t *testing.T) {
	pooled(t, 3, func(t *testing.T, w *world, m *Manager) {
		ref := snapshot.Ref{Name: "shop"}
		if p := poolOf(t, m, 2); p.Ready != 3 || len(ids(t, m)) != 0 || m.Live(ref) != 0 {
			t.Fatalf("%+v, %d listed, %d live", p, len(ids(t, m)), m.Live(ref))
		}
		waiting := slices.Sorted(maps.Keys(w.containers))
		began := time.Now()
		who := access.User("you", 5, os.Getgid())
		resp, err := m.Create(t.Context(), who, api.CloneRequest{
			Golden: "shop", Count: 2, Name: "pr", Labels: map[string]string{"a": "b"}, TTL: minutes(5),
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range resp.Clones {
			_, claimed := c.Timings[api.StageClaim]
			if !slices.Contains(waiting, c.ID) || !claimed || len(c.Timings) != 3 {
				t.Errorf("not from the pool: %+v", c)
			}
			if c.Owner != "you" || c.Labels["a"] != "b" || !c.Created || c.CreatedAt.Before(began) || !c.ExpiresAt.Equal(began.Add(5*time.Minute)) || c.URL == "" || c.PID == 0 {
				t.Errorf("not as asked for: %+v", c)
			}
			dir := filepath.Join(w.dir, "run", c.ID)
			st, err := os.Stat(dir)
			if err != nil || int(st.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
				t.Errorf("socket directory: %v, %v", st, err)
			}
			list := make([]byte, 100) // of five entries, the second is a user's: its right and number
			n, err := unix.Getxattr(dir, "system.posix_acl_access", list)
			if err != nil || n != 44 || st.Mode().Perm() != 0o710 || list[14] != 1 || binary.LittleEndian.Uint32(list[16:]) != uint32(who.UID()) {
				t.Errorf("who may pass: %v, %v, %v", st.Mode(), list[:max(n, 0)], err)
			}
		}
		if m.Live(ref) != 2 {
			t.Errorf("%d live", m.Live(ref))
		}
		with := create(t, m, api.CloneRequest{Settings: map[string]string{"s": "1"}}).Clones[0]
		if _, claimed := with.Timings[api.StageClaim]; claimed {
			t.Error("one with settings is from the pool")
		}
		after(10 * time.Second)
		if p := poolOf(t, m, 2); p.Ready != 3 || p.Hits != 2 || p.Misses != 0 {
			t.Errorf("it was not filled again: %+v", p)
		}
		after(time.Hour)
		if got, p := ids(t, m), poolOf(t, m, 2); len(got) != 0 || p.Ready != 3 {
			t.Errorf("listed after their time: %v, members: %+v", got, p)
		}
	})
}

// A request that fails after it has claimed leaves nothing, and no member.
func TestClaimUndone(t *testing.T) {
	for _, op := range []string{"runner.SetRecord", "lease"} {
		t.Run(op, func(t *testing.T) {
			pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
				before := slices.Sorted(maps.Keys(w.containers))
				req := api.CloneRequest{Golden: "shop"}
				if op == "lease" {
					req.LeaseID = "nope"
				} else {
					w.failAt(op)
				}
				if _, err := m.Create(t.Context(), caller, req); err == nil {
					t.Error("no error")
				}
				w.failAt("")
				after(5 * time.Minute)
				now := slices.Sorted(maps.Keys(w.containers))
				if p := poolOf(t, m, 2); p.Ready != 2 || len(now) != 2 || slices.Contains(now, before[0]) && slices.Contains(now, before[1]) {
					t.Errorf("%+v, %v before, %v now", p, before, now)
				}
			})
		})
	}
}

// failAt has an operation fail from now on.
func (w *world) failAt(op string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = func(at string, _ int) error {
		if at == op {
			return errors.New("boom")
		}
		return nil
	}
}

func TestDiedMemberIsNotHandedOut(t *testing.T) {
	pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
		for _, task := range slices.Collect(maps.Values(w.containers)) { // the pool changes it meanwhile
			task.end(1)
		}
		synctest.Wait()
		c := create(t, m, api.CloneRequest{}).Clones[0]
		if c.State != api.StateRunning {
			t.Errorf("%+v", c)
		}
		after(time.Minute)
		if p := poolOf(t, m, 2); p.Ready != 2 || len(w.containers) != 3 {
			t.Errorf("%+v, %d containers", p, len(w.containers))
		}
	})
}

func TestPoolOverRestarts(t *testing.T) {
	pooled(t, 3, func(t *testing.T, w *world, m *Manager) {
		c := create(t, m, api.CloneRequest{Name: "mine"}).Clones[0]
		after(10 * time.Second)
		members := slices.Sorted(maps.Keys(w.containers))
		dead := members[slices.IndexFunc(members, func(id string) bool { return id != c.ID })]
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.task(dead).end(1)
		m, report := w.manager(t)
		if report != (Report{Adopted: 1, Members: 2, Removed: 1}) {
			t.Errorf("%+v", report)
		}
		if diff := ids(t, m); len(diff) != 1 || diff[0] != c.ID {
			t.Errorf("listed: %v", diff)
		}
		refresh(t, m)
		got := create(t, m, api.CloneRequest{Count: 3}).Clones
		for _, g := range got {
			if g.ID == c.ID || g.ID == dead {
				t.Errorf("%s was handed out again", g.ID)
			}
		}
		if !slices.ContainsFunc(got, func(g api.Clone) bool { return slices.Contains(members, g.ID) }) { // which of them is first is open
			t.Error("members of before are not handed out")
		}
		m, _ = restart(t, w, m) // as a teardown does it: not refreshed
		m.EmptyPool()
		for _, id := range ids(t, m) {
			if err := m.Remove(t.Context(), access.Daemon, id, false); err != nil {
				t.Error(err)
			}
		}
		drain(t, m)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

// Eight callers claim while the daemon restarts again and again: nobody gets
// what somebody else has.
func TestNoDoubleHandOut(t *testing.T) {
	pooled(t, 10, func(t *testing.T, w *world, m *Manager) {
		var mu sync.Mutex
		seen := map[string]bool{}
		hits := 0
		current := func() *Manager { mu.Lock(); defer mu.Unlock(); return m }
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 40 {
					resp, err := current().Create(t.Context(), caller, api.CloneRequest{Golden: "shop"})
					<-time.After(50 * time.Millisecond)
					if err != nil {
						if !errdefs.IsUnavailable(err) {
							t.Error(err)
						}
						continue
					}
					mu.Lock()
					c := resp.Clones[0]
					if seen[c.ID] {
						t.Errorf("%s was handed out twice", c.ID)
					}
					seen[c.ID] = true
					if _, ok := c.Timings[api.StageClaim]; ok {
						hits++
					}
					mu.Unlock()
				}
			})
		}
		for range 5 {
			after(300 * time.Millisecond)
			next, _ := restart(t, w, current())
			mu.Lock()
			m = next
			mu.Unlock()
			if err := next.RefreshPool(t.Context()); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
		if hits < 20 {
			t.Errorf("%d of %d are from the pool", hits, len(seen))
		}
		if n := len(ids(t, m)); n != len(seen) {
			t.Errorf("%d handed out, %d listed", len(seen), n)
		}
	})
}

// A member that this daemon would run otherwise is not handed out.
func TestMembersOfAnotherVersion(t *testing.T) {
	pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
		for _, task := range w.containers {
			task.c.Record = bytes.Replace(task.c.Record, []byte(`"process":"`), []byte(`"process":"0`), 1)
		}
		_, report := restart(t, w, m)
		if report != (Report{Removed: 2}) {
			t.Errorf("%+v", report)
		}
	})
}

func TestPoolFollowsGoldens(t *testing.T) {
	pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
		w.goldens["shop"] = append(w.goldens["shop"], snapshot.Golden{Name: "shop", Version: 3, Description: snapshot.Description{Engine: "fake"}})
		refresh(t, m)
		if o, n := poolOf(t, m, 2), poolOf(t, m, 3); o.Ready != 0 || n.Ready != 2 || len(w.containers) != 2 {
			t.Errorf("old %+v, new %+v, %d containers", o, n, len(w.containers))
		}
		resume, err := m.SuspendPool(t.Context(), snapshot.Ref{Name: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		if left := w.left(t); left != nil {
			t.Errorf("left when the golden is to be removed: %v", left)
		}
		delete(w.goldens, "shop")
		refresh(t, m)
		resume()
		after(time.Minute)
		if left := w.left(t); left != nil {
			t.Errorf("made of a removed golden: %v", left)
		}
	})
}

func TestSetPool(t *testing.T) {
	pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
		size := func(n int) api.PoolRequest { return api.PoolRequest{Size: &n} }
		p, err := m.SetPool(t.Context(), access.Daemon, "shop", size(5))
		if err != nil || p.Version != 2 || p.Auto || *p.Size != 5 || p.Wanted != 5 {
			t.Errorf("%+v, %v", p, err)
		}
		after(time.Minute)
		if p := poolOf(t, m, 2); p.Ready != 5 {
			t.Errorf("%+v", p)
		}
		if p, err := m.SetPool(t.Context(), access.Daemon, "shop", api.PoolRequest{Auto: true}); err != nil || !p.Auto || p.Size != nil {
			t.Errorf("%+v, %v", p, err)
		}
		after(time.Minute)
		if p := poolOf(t, m, 2); p.Ready != 0 || len(w.containers) != 0 {
			t.Errorf("auto without demand: %+v", p)
		}
		for name, req := range map[string]api.PoolRequest{"shop": {}, "shop:1": size(1), "a/b": size(1), "shop:current": size(1001)} {
			if _, err := m.SetPool(t.Context(), access.Daemon, name, req); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s, %+v: %v", name, req, err)
			}
		}
		if _, err := m.SetPool(t.Context(), access.Daemon, "nope", size(1)); !errdefs.IsNotFound(err) {
			t.Errorf("unknown golden: %v", err)
		}
	})
}

func TestWaitTimeout(t *testing.T) {
	life(t, func(t *testing.T, w *world, _ *Manager) {
		o := w.options()
		o.Parallel = 1
		m := New(o)
		t.Cleanup(func() { m.Close(context.Background()) })
		w.before = func(op string, _ int) error {
			if op == "engine.Ready" {
				<-time.After(3 * time.Second)
			}
			return nil
		}
		done := make(chan error, 2)
		for _, wait := range []time.Duration{time.Minute, 5 * time.Second} {
			go func() {
				_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", WaitTimeout: api.Duration(wait)})
				done <- err
			}()
			after(time.Millisecond)
		}
		_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", WaitTimeout: api.Duration(2 * time.Second)})
		if !errors.Is(err, context.DeadlineExceeded) || !errdefs.IsDeadlineExceeded(err) {
			t.Errorf("got %v", err)
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		if n := len(ids(t, m)); n != 2 {
			t.Errorf("%d clones", n)
		}
	})
}
