package manager

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// life runs a test in fake time, with a world and its first Manager.
func life(t *testing.T, test func(t *testing.T, w *world, m *Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m, _ := w.manager(t)
		test(t, w, m)
	})
}

// after lets time pass and all that it brings about happen.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func minutes(n int) api.Duration { return api.Duration(time.Duration(n) * time.Minute) }

// TestClockJumps: when a clone ends is known by the monotonic clock, whose reading
// [time.Time.String] shows, and so it is whatever the host's clock is set to: after it was made,
// extended, handed out again, and taken up by another daemon. Fake time has no such reading.
func TestClockJumps(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	id := create(t, m, api.CloneRequest{Name: "a", TTL: minutes(100)}).Clones[0].ID
	check := func(m *Manager, ttl time.Duration) {
		t.Helper()
		at := *m.registry.get(id).record().ExpiresAt
		if left := time.Until(at); !strings.Contains(at.String(), " m=") || left > ttl || left < ttl-time.Hour {
			t.Errorf("it ends at %s", at)
		}
	}
	check(m, 100*time.Minute)
	if _, err := m.Extend(t.Context(), access.Daemon, id, api.ExtendRequest{TTL: minutes(200)}); err != nil {
		t.Error(err)
	}
	check(m, 200*time.Minute)
	create(t, m, api.CloneRequest{Name: "a", IfExists: api.IfExistsReuse, TTL: minutes(300)})
	check(m, 300*time.Minute)
	if err := m.Close(t.Context()); err != nil {
		t.Error(err)
	}
	m, _ = w.manager(t)
	check(m, 300*time.Minute)
}

func TestExpiry(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		short := create(t, m, api.CloneRequest{TTL: minutes(1)}).Clones[0]
		long := create(t, m, api.CloneRequest{TTL: minutes(2)}).Clones[0]
		after(59 * time.Second)
		if n := len(ids(t, m)); n != 2 {
			t.Fatalf("%d clones too early", n)
		}
		after(2 * time.Second)
		if diff := cmp.Diff([]string{long.ID}, ids(t, m)); diff != "" {
			t.Error(diff)
		}
		if !w.taskGone(short.ID) {
			t.Error("the expired one is still there")
		}
		got, err := m.Extend(t.Context(), access.Daemon, long.ID, api.ExtendRequest{TTL: minutes(10)})
		if err != nil || time.Until(*got.ExpiresAt) != 10*time.Minute {
			t.Errorf("extend: %v, %v", got.ExpiresAt, err)
		}
		after(9 * time.Minute)
		if n := len(ids(t, m)); n != 1 {
			t.Error("extend had no effect")
		}
		if _, err := m.Extend(t.Context(), access.Daemon, long.ID, api.ExtendRequest{TTL: minutes(1)}); err != nil { // earlier than before
			t.Error(err)
		}
		after(time.Minute)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
		if _, err := m.Extend(t.Context(), access.Daemon, long.ID, api.ExtendRequest{TTL: minutes(1)}); !errdefs.IsNotFound(err) {
			t.Errorf("extend of nothing: %v", err)
		}
		for _, ttl := range []api.Duration{0, minutes(24*60 + 1)} {
			if _, err := m.Extend(t.Context(), access.Daemon, long.ID, api.ExtendRequest{TTL: ttl}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("extend by %v: %v", ttl, err)
			}
		}
	})
}

func (w *world) taskGone(id string) bool { return w.task(id) == nil }

func TestTeardownRetries(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		c := create(t, m, api.CloneRequest{}).Clones[0]
		task := w.task(c.ID)
		w.before = func(op string, n int) error {
			if op == "network.Remove" && n < 10 {
				return errors.New("busy")
			}
			return nil
		}
		begun := time.Now()
		if err := m.Remove(t.Context(), access.Daemon, c.ID, false); err != nil {
			t.Fatal(err)
		}
		if time.Since(begun) != 0 || !task.hasEnded() || len(ids(t, m)) != 0 {
			t.Error("it is not unreachable at once")
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("drain: %v", err)
		}
		drain(t, m)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

// hold holds a lease in the background and returns how to let go.
func hold(t *testing.T, m *Manager, lease string) (release context.CancelFunc, done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	held, errs := make(chan struct{}), make(chan error, 1)
	go func() { errs <- m.Hold(ctx, access.Daemon, lease, func() { close(held) }) }()
	select {
	case <-held:
	case err := <-errs:
		t.Fatal(err)
	}
	return cancel, errs
}

var byConnection = api.CloneRequest{Golden: "shop", Lease: api.LeaseConnection}

func TestLease(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		resp := create(t, m, byConnection)
		if resp.LeaseID == "" || resp.Clones[0].ExpiresAt != nil || resp.Clones[0].LeaseID != resp.LeaseID {
			t.Fatalf("got %+v", resp)
		}
		after(9 * time.Second)
		release, done := hold(t, m, resp.LeaseID)
		second := create(t, m, api.CloneRequest{LeaseID: resp.LeaseID})
		if second.LeaseID != resp.LeaseID {
			t.Errorf("lease of the second is %s", second.LeaseID)
		}
		stranger := access.User("", caller.UID()+1, caller.Group()+1)
		if _, err := m.Create(t.Context(), stranger, api.CloneRequest{Golden: "shop", LeaseID: resp.LeaseID}); !errdefs.IsNotFound(err) {
			t.Errorf("a stranger's: %v", err)
		}
		kept := create(t, m, api.CloneRequest{LeaseID: resp.LeaseID})
		if _, err := m.Extend(t.Context(), access.Daemon, kept.Clones[0].ID, api.ExtendRequest{TTL: minutes(60 * 3)}); err != nil {
			t.Fatal(err)
		}
		after(2 * time.Hour)
		if n := len(ids(t, m)); n != 3 {
			t.Fatalf("%d clones while held", n)
		}
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		after(time.Second)
		if diff := cmp.Diff([]string{kept.Clones[0].ID}, ids(t, m)); diff != "" {
			t.Errorf("after the release: %s", diff)
		}
		if err := m.Hold(t.Context(), access.Daemon, resp.LeaseID, func() {}); !errdefs.IsNotFound(err) {
			t.Errorf("hold of what has ended: %v", err)
		}
		if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", LeaseID: resp.LeaseID}); !errdefs.IsNotFound(err) {
			t.Errorf("one more of what has ended: %v", err)
		}
		after(time.Hour)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

func TestLeaseNotHeld(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		create(t, m, byConnection)
		after(9 * time.Second)
		if n := len(ids(t, m)); n != 1 {
			t.Error("it went too early")
		}
		after(2 * time.Second)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

// A lease that ends while one more clone of it is made takes that clone along.
func TestLeaseEndsDuringCreate(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		resp := create(t, m, byConnection)
		release, _ := hold(t, m, resp.LeaseID)
		w.before = func(op string, _ int) error {
			if op == "engine.Ready" {
				release()
				<-time.After(time.Second)
			}
			return nil
		}
		if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", LeaseID: resp.LeaseID}); !errdefs.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
		drain(t, m)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

// restart ends the Manager as a daemon that stops does, and starts the next one.
func restart(t *testing.T, w *world, m *Manager) (*Manager, Report) {
	t.Helper()
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w.manager(t)
}

func TestRestart(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		plain := create(t, m, api.CloneRequest{Name: "plain", TTL: minutes(10), Labels: map[string]string{"a": "b"}})
		create(t, m, api.CloneRequest{TTL: minutes(1)}) // expires while nobody is there
		dead := create(t, m, api.CloneRequest{})
		leased := create(t, m, byConnection)
		lost := create(t, m, byConnection)
		_, done := hold(t, m, leased.LeaseID)
		_, lostDone := hold(t, m, lost.LeaseID)
		before, err := m.Get(t.Context(), access.Daemon, "plain")
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, d := range []<-chan error{done, lostDone} {
			if err := <-d; !errdefs.IsUnavailable(err) {
				t.Errorf("hold ended with %v", err)
			}
		}
		if _, err := m.Create(t.Context(), caller, byConnection); !errdefs.IsUnavailable(err) {
			t.Errorf("create after Close: %v", err)
		}
		w.task(dead.Clones[0].ID).end(1)
		after(2 * time.Minute)

		m, report := w.manager(t)
		if want := (Report{Adopted: 3, Removed: 2}); report != want {
			t.Errorf("report: %+v, want %+v", report, want)
		}
		now, err := m.Get(t.Context(), access.Daemon, "plain")
		if diff := cmp.Diff(before, now, cmpopts.EquateApproxTime(0)); err != nil || diff != "" || now.ID != plain.Clones[0].ID {
			t.Errorf("%v, %s", err, diff)
		}
		after(29 * time.Second)
		release, done := hold(t, m, leased.LeaseID)
		after(2 * time.Second)
		if _, err := m.Get(t.Context(), access.Daemon, lost.Clones[0].ID); !errdefs.IsNotFound(err) {
			t.Errorf("whose lease nobody took up: %v", err)
		}
		if _, err := m.Get(t.Context(), access.Daemon, leased.Clones[0].ID); err != nil {
			t.Errorf("whose lease was taken up: %v", err)
		}
		release()
		<-done
		after(10 * time.Minute)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

// The time to take a lease up again begins when the daemon serves, however long that takes it.
func TestLeaseWaitsForServing(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		leased, lost := create(t, m, byConnection), create(t, m, byConnection)
		_, held := hold(t, m, leased.LeaseID)
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-held
		after(time.Hour)
		m = New(w.options())
		t.Cleanup(func() { m.Close(context.Background()) })
		if _, err := m.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		m.Serving()
		after(29 * time.Second)
		if n := len(ids(t, m)); n != 2 {
			t.Fatalf("%d clones are left after 29 seconds", n)
		}
		release, held := hold(t, m, leased.LeaseID)
		after(2 * time.Second)
		if got := ids(t, m); len(got) != 1 || got[0] != leased.Clones[0].ID {
			t.Errorf("left after 31 seconds: %v, want only %s, not %s", got, leased.Clones[0].ID, lost.Clones[0].ID)
		}
		release()
		<-held
	})
}

// A server that stops ends connections before it closes the Manager.
func TestHoldOfStoppingServer(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		resp := create(t, m, byConnection)
		ctx, cancel := context.WithCancelCause(t.Context())
		err := m.Hold(ctx, access.Daemon, resp.LeaseID, func() { cancel(runtime.ErrStopping) })
		if !errdefs.IsUnavailable(err) {
			t.Errorf("got %v", err)
		}
		after(20 * time.Second)
		if n := len(ids(t, m)); n != 1 {
			t.Error("the clone is gone")
		}
	})
}

func TestRecoverLeftovers(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		unready := create(t, m, api.CloneRequest{}).Clones[0]
		w.task(unready.ID).c.Record = []byte(`{"id":"` + unready.ID + `","golden":"shop","version":2,"engine":"fake"}`)
		garbled := create(t, m, api.CloneRequest{}).Clones[0]
		w.task(garbled.ID).c.Record = []byte(`{`)
		orphaned := create(t, m, api.CloneRequest{Golden: "shop:1"}).Clones[0]
		w.goldens["shop"] = w.goldens["shop"][1:]
		w.snapshots["caaaaaaaaaa1"] = true
		w.networks["caaaaaaaaaa2"], w.networks["caaaaaaaaaa1"] = true, true
		w.networks["baaaaaaaaaa1"] = true // a build's
		for _, f := range []string{"run/caaaaaaaaaa3/x/y", "logs/caaaaaaaaaa4.log", "run/other/x", "logs/baaaaaaaaaa1.log"} {
			path := filepath.Join(w.dir, f)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		m, report := restart(t, w, m)
		if want := (Report{Removed: 3, Orphans: 4}); report != want {
			t.Errorf("report: %+v, want %+v", report, want)
		}
		drain(t, m)
		want := []string{"network baaaaaaaaaa1", "run other", "logs baaaaaaaaaa1.log"}
		if diff := cmp.Diff(want, w.left(t)); diff != "" {
			t.Errorf("left (of %s): %s", orphaned.ID, diff)
		}
	})
}

// An error while a clone is looked at leaves that clone alone.
func TestRecoverError(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		create(t, m, api.CloneRequest{Count: 2})
		before := w.left(t)
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		boom := errors.New("boom")
		w.calls["runner.Load"] = 0
		w.before = func(op string, n int) error {
			if op == "runner.Load" && n == 1 {
				return boom
			}
			return nil
		}
		m = New(w.options())
		defer m.Close(t.Context())
		report, err := m.Recover(t.Context())
		if !errors.Is(err, boom) || report.Adopted != 1 || report.Removed != 0 || report.Orphans != 0 {
			t.Errorf("got %+v, %v", report, err)
		}
		drain(t, m)
		if diff := cmp.Diff(before, w.left(t)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestServerDies(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		c := create(t, m, api.CloneRequest{TTL: minutes(1)}).Clones[0]
		w.task(c.ID).end(1)
		synctest.Wait()
		got, err := m.Get(t.Context(), access.Daemon, c.ID)
		if err != nil || got.State != api.StateDead || got.PID != 0 || got.MemoryBytes != 0 {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := m.Exec(t.Context(), access.Daemon, c.ID, api.ExecRequest{Args: []string{"x"}}, noStdio, nil); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("exec: %v", err)
		}
		after(2 * time.Minute)
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

// A daemon that stops in the middle of a creation leaves nothing of it.
func TestCloseDuringCreate(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			life(t, func(t *testing.T, w *world, m *Manager) {
				kept := create(t, m, api.CloneRequest{}).Clones[0]
				reached := make(chan struct{})
				var once sync.Once
				w.before = func(op string, _ int) error {
					if op == step {
						once.Do(func() { close(reached) })
						<-time.After(time.Second)
					}
					return nil
				}
				errs := make(chan error, 1)
				go func() {
					_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Count: 2})
					errs <- err
				}()
				<-reached
				if err := m.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if err := <-errs; !errdefs.IsUnavailable(err) {
					t.Errorf("create: %v", err)
				}
				want := []string{"snapshot " + kept.ID, "network " + kept.ID, "container " + kept.ID, "run " + kept.ID, "logs " + kept.ID + ".log"}
				if diff := cmp.Diff(want, w.left(t)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}
