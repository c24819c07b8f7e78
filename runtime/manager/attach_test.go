package manager

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

var attached = []api.AttachRequest{request, {Type: "macvlan", Master: "nic0"}}

func TestCloneAttached(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	m := attachable(t, w, f)
	c := create(t, m, api.CloneRequest{Name: "pr", Attach: attached}).Clones[0]
	if len(c.Attached) != 2 || c.Attached[0].IP != request.IP || c.Attached[1].Master != "nic0" || len(f.have) != 2 {
		t.Fatalf("attached %v, have %v", c.Attached, f.have)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m = attachable(t, w, f)
	if c, err := m.Get(t.Context(), access.Daemon, "pr"); err != nil || len(c.Attached) != 2 || len(f.have) != 2 {
		t.Errorf("after a restart %v, have %v: %v", c.Attached, f.have, err)
	}
	// Its successor has the address, which stays its own where that one is not made.
	w.before = failAt("engine.Ready", 1)
	reset := api.CloneRequest{Golden: "shop", Name: "pr", IfExists: api.IfExistsReset, Attach: attached}
	if _, err := m.Create(t.Context(), caller, reset); err == nil {
		t.Fatal("no error")
	}
	w.before = failAt("runner.SetRecord", 5) // after its successor was kept, and each had a change for the first interface
	if _, err := m.Create(t.Context(), caller, reset); err == nil {
		t.Fatal("no error")
	}
	w.before = nil
	if old, err := m.Get(t.Context(), access.Daemon, "pr"); err != nil || old.ID != c.ID || len(old.Attached) != 2 || len(f.have) != 2 {
		t.Errorf("not replaced: %v, have %v: %v", old.Attached, f.have, err)
	}
	next := create(t, m, reset).Clones[0]
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if next.ID == c.ID || len(next.Attached) != 2 || len(f.have) != 2 || f.have[0].ID != next.ID {
		t.Errorf("replaced by %v, have %v", next.Attached, f.have)
	}
}

// TestPredecessorKeepsInterfaces where the process is killed while a successor has them, at
// each time that something is recorded: the next one gives them back.
func TestPredecessorKeepsInterfaces(t *testing.T) {
	for nth := 1; nth <= 5; nth++ {
		t.Run(strconv.Itoa(nth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, f := newWorld(t), &fakeInterfaces{}
				m := attachable(t, w, f)
				old := create(t, m, api.CloneRequest{Name: "pr", Attach: attached}).Clones[0]
				dies := failAt("runner.SetRecord", nth)
				var dead atomic.Bool
				w.before = func(op string, n int) error {
					if dies(op, n) != nil {
						dead.Store(true)
					}
					if dead.Load() {
						f.die(true)
						return errors.New("dead")
					}
					return nil
				}
				if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "pr", IfExists: api.IfExistsReset, Attach: attached}); err == nil {
					t.Fatal("no error")
				}
				ended, end := context.WithCancel(t.Context())
				end()
				_ = m.Close(ended)
				w.before = nil
				f.die(false)
				m = attachable(t, w, f)
				if err := m.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
				now, err := m.Get(t.Context(), access.Daemon, "pr")
				if err != nil || now.ID != old.ID || len(now.Attached) != 2 {
					t.Errorf("not replaced: %+v, %v", now.Attached, err)
				}
				if have, _ := f.List(old.ID); len(have) != 2 || len(f.have) != 2 {
					t.Errorf("have %v", f.have)
				}
				if given := m.registry.get(old.ID).record().Given; len(given) > 0 {
					t.Errorf("given away still: %v", given)
				}
			})
		})
	}
}

// failAt fails the nth call of an operation from now on.
func failAt(op string, nth int) func(string, int) error {
	var n atomic.Int64
	return func(now string, _ int) error {
		if now == op && n.Add(1) == int64(nth) {
			return errors.New("boom")
		}
		return nil
	}
}

// TestCloneAttachFails leaves nothing, wherever it fails; a clone that lacks its
// interfaces does not survive the daemon.
func TestCloneAttachFails(t *testing.T) {
	for name, nth := range map[string]int{"ready": 1, "first": 2, "second": 3, "complete": 4} {
		t.Run(name, func(t *testing.T) {
			w, f := newWorld(t), &fakeInterfaces{}
			m := attachable(t, w, f)
			w.before = failAt("runner.SetRecord", nth)
			if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Attach: attached}); err == nil {
				t.Fatal("no error")
			}
			if err := m.Drain(context.Background()); err != nil {
				t.Fatal(err)
			}
			if left := w.left(t); len(left)+len(f.have) > 0 {
				t.Errorf("left: %v, %v", left, f.have)
			}
		})
	}
}

func TestCloneAttachRefuses(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	m := attachable(t, w, f)
	many := make([]api.AttachRequest, 9)
	for i := range many {
		many[i] = attached[1]
	}
	for name, tt := range map[string]struct {
		uid int
		req api.CloneRequest
		is  func(error) bool
	}{
		"a stranger":     {caller.UID() + 1000, api.CloneRequest{Attach: attached}, errdefs.IsPermissionDenied},
		"a bad type":     {caller.UID(), api.CloneRequest{Attach: []api.AttachRequest{{Type: "tap"}}}, errdefs.IsInvalidArgument},
		"one IP for two": {caller.UID(), api.CloneRequest{Attach: attached, Count: 2}, errdefs.IsInvalidArgument},
		"nine":           {caller.UID(), api.CloneRequest{Attach: many}, errdefs.IsInvalidArgument},
	} {
		tt.req.Golden = "shop"
		if _, err := m.Create(t.Context(), access.User("", tt.uid), tt.req); !tt.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left := w.left(t); len(left)+len(f.have) > 0 {
		t.Errorf("left: %v, %v", left, f.have)
	}
}
