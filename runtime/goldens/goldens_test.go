package goldens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// world is a store and a pool in memory. What is done to them is noted.
type world struct {
	*Goldens
	all    []snapshot.Golden
	events *event.Hub
	calls  []string
	fail   error          // of the store's next change
	live   map[string]int // nil: ten for each version
}

func newWorld(all ...snapshot.Golden) *world {
	w := &world{all: all, events: event.New()}
	w.Goldens = New(Options{Store: store{w}, Clones: clones{w}, Events: w.events, Log: slog.New(slog.DiscardHandler)})
	return w
}

func (w *world) call(format string, args ...any) error {
	w.calls = append(w.calls, fmt.Sprintf(format, args...))
	err := w.fail
	w.fail = nil
	return err
}

// took returns what was done since the last time.
func (w *world) took() []string {
	calls := w.calls
	w.calls = nil
	return calls
}

type store struct{ w *world }

func (s store) Goldens(context.Context) ([]snapshot.Golden, error) { return slices.Clone(s.w.all), nil }

func (s store) Golden(_ context.Context, ref snapshot.Ref) (snapshot.Golden, error) {
	for _, g := range s.w.all {
		if g.Name == ref.Name && (g.Version == ref.Version || ref.Version == 0 && g.Current) {
			return g, nil
		}
	}
	return snapshot.Golden{}, snapshot.NoGolden(ref)
}

func (s store) Promote(_ context.Context, ref snapshot.Ref) error {
	if err := s.w.call("promote %s", ref); err != nil {
		return err
	}
	for i := range s.w.all {
		if g := &s.w.all[i]; g.Name == ref.Name {
			g.Current = g.Version == ref.Version
		}
	}
	return nil
}

func (s store) SetAccess(_ context.Context, name string, a snapshot.Access) error {
	for i, g := range s.w.all {
		if g.Name == name {
			s.w.all[i].Access = a
		}
	}
	return s.w.call("access %s", name)
}

func (s store) VerifyDigest(_ context.Context, ref snapshot.Ref) error {
	return s.w.call("verify %s", ref)
}

func (s store) RemoveGolden(_ context.Context, ref snapshot.Ref) error {
	if err := s.w.call("remove %s version %d", ref.Name, ref.Version); err != nil {
		return err
	}
	s.w.all = slices.DeleteFunc(s.w.all, func(g snapshot.Golden) bool {
		return g.Name == ref.Name && (ref.Version == 0 || g.Version == ref.Version)
	})
	return nil
}

type clones struct{ w *world }

func (c clones) Live(ref snapshot.Ref) int {
	if c.w.live != nil {
		return c.w.live[ref.String()]
	}
	return ref.Version * 10
}

func (c clones) RefreshPool(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.w.call("refresh")
}

func (c clones) SuspendPool(_ context.Context, ref snapshot.Ref) (resume func(), err error) {
	return func() { _ = c.w.call("resume") }, c.w.call("suspend %s version %d", ref.Name, ref.Version)
}

func shops() []snapshot.Golden {
	return []snapshot.Golden{
		{Name: "other", Version: 1, Current: true},
		{Name: "shop", Version: 1, Description: snapshot.Description{State: json.RawMessage(`"secret"`)}}, {Name: "shop", Version: 3},
		{Name: "shop", Version: 4, Current: true}, {Name: "shop", Version: 5},
	}
}

func versions(t *testing.T, w *world, name string) (list []int, current int) {
	t.Helper()
	all, err := w.List(t.Context(), access.Daemon, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		list = append(list, g.Version)
		if g.Current {
			current = g.Version
		}
	}
	return list, current
}

func TestGoldens(t *testing.T) {
	w := newWorld(shops()...)
	ctx := t.Context()
	g, err := w.Get(ctx, access.Daemon, "shop:1")
	if data, _ := json.Marshal(g); err != nil || g.Clones != 10 || strings.Contains(string(data), "secret") {
		t.Errorf("%s %v", data, err)
	}
	for _, want := range []int{3, 1} {
		if g, err := w.Rollback(ctx, access.Daemon, "shop"); err != nil || g.Version != want || !g.Current {
			t.Errorf("rollback: %+v %v", g, err)
		}
	}
	if _, err := w.Rollback(ctx, access.Daemon, "shop"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("rollback from the first: %v", err)
	}
	if _, err := w.Rollback(ctx, access.Daemon, "none"); !errdefs.IsNotFound(err) {
		t.Errorf("rollback of none: %v", err)
	}
	if g, err := w.Promote(ctx, access.Daemon, "shop:5"); err != nil || g.Version != 5 || !g.Current {
		t.Errorf("promote: %+v %v", g, err)
	}
	for ref, is := range map[string]func(error) bool{
		"shop": errdefs.IsInvalidArgument, "shop:current": errdefs.IsInvalidArgument, "shop:2": errdefs.IsNotFound, "../x": errdefs.IsInvalidArgument,
	} {
		if _, err := w.Promote(ctx, access.Daemon, ref); !is(err) {
			t.Errorf("promote %s: %v", ref, err)
		}
	}
	if err := w.Remove(ctx, access.Daemon, "shop:current"); err != nil {
		t.Error(err)
	}
	if list, _ := versions(t, w, "shop"); len(list) != 3 {
		t.Errorf("removing shop:current left %v", list)
	}
	if err := w.Remove(ctx, access.Daemon, "shop"); err != nil {
		t.Error(err)
	}
	if list, _ := versions(t, w, "shop"); len(list) != 0 {
		t.Errorf("removing shop left %v", list)
	}
	if list, current := versions(t, w, ""); len(list) != 1 || current != 1 {
		t.Errorf("others: %v %d", list, current)
	}
	if _, err := w.List(ctx, access.Daemon, "a/b"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("list: %v", err)
	}
}

// TestPoolFollows: the pool lets go of what is removed, before it is, and knows of all that has changed, also when who
// wanted it has gone. What is not allowed or fails changes no pool but that of a golden that may be gone.
func TestPoolFollows(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	boom := errors.New("boom")
	for name, tt := range map[string]struct {
		do   func(*world) error
		fail error
		want []string
	}{
		"promote":  {do: func(w *world) error { _, err := w.Promote(gone, access.Daemon, "shop:3"); return err }, want: []string{"promote shop:3", "refresh"}},
		"rollback": {do: func(w *world) error { _, err := w.Rollback(gone, access.Daemon, "shop"); return err }, want: []string{"promote shop:3", "refresh"}},
		"access": {do: func(w *world) error {
			_, err := w.SetAccess(gone, access.Daemon, "shop", api.AccessRequest{Mode: "0600"})
			return err
		}, want: []string{"access shop", "refresh"}},
		"add": {do: func(w *world) error {
			_, err := w.Add(gone, access.Daemon, "shop", func() (snapshot.Golden, error) { return snapshot.Golden{Name: "shop"}, w.call("commit") })
			return err
		}, want: []string{"commit", "refresh"}},
		"marked": {do: func(w *world) error { w.Marked(gone, w.all[1]); return nil }, want: []string{"refresh"}},
		"remove one": {
			do:   func(w *world) error { return w.Remove(gone, access.Daemon, "shop:current") },
			want: []string{"suspend shop version 4", "remove shop version 4", "refresh", "resume"},
		},
		"remove all": {
			do:   func(w *world) error { return w.Remove(gone, access.Daemon, "shop") },
			want: []string{"suspend shop version 0", "remove shop version 0", "refresh", "resume"},
		},
		"remove none":      {do: func(w *world) error { return w.Remove(gone, access.Daemon, "shop:2") }},
		"remove by nobody": {do: func(w *world) error { return w.Remove(gone, access.Caller{}, "shop:3") }},
		"promote fails": {
			do:   func(w *world) error { _, err := w.Promote(gone, access.Daemon, "shop:3"); return err },
			fail: boom, want: []string{"promote shop:3"},
		},
		"pool is not emptied": {
			do:   func(w *world) error { return w.Remove(gone, access.Daemon, "shop") },
			fail: boom, want: []string{"suspend shop version 0"},
		},
		"commit fails": {do: func(w *world) error {
			_, err := w.Add(gone, access.Daemon, "shop", func() (snapshot.Golden, error) { return snapshot.Golden{}, boom })
			return err
		}},
	} {
		w := newWorld(shops()...)
		w.fail = tt.fail
		if err := tt.do(w); (err == nil) != (tt.fail == nil && tt.want != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, w.took()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	w := newWorld(shops()...)
	if _, err := w.Add(gone, access.Daemon, "shop", func() (snapshot.Golden, error) { w.fail = boom; return snapshot.Golden{}, nil }); err != nil {
		t.Errorf("what is done fails for the pool's sake: %v", err)
	}
}

// TestDamage: what was found to be damaged is told, by an event and the doctor, until it is sound again.
func TestDamage(t *testing.T) {
	w := newWorld(shops()...)
	if c := w.Check(t.Context()); c.Status != "ok" || c.Name != "goldens" {
		t.Errorf("of sound goldens: %+v", c)
	}
	w.all[1].DamagedAt = time.Now()
	if w.all[1].Damaged() == nil {
		t.Fatal("it is not damaged")
	}
	w.Marked(t.Context(), w.all[1])
	if c := w.Check(t.Context()); c.Status != "error" || !strings.Contains(c.Fix, "ctrsnap golden verify shop:1") || c.Why == "" {
		t.Errorf("of a damaged golden: %+v", c)
	}
	w.Marked(t.Context(), w.all[2])
	var got []string
	list, _ := w.events.Since(0)
	for _, e := range list {
		got = append(got, fmt.Sprintf("%s %s %t", e.Type, e.Golden, e.Reason != ""))
	}
	if diff := cmp.Diff([]string{"golden.damaged shop:1 true", "golden.sound shop:3 false"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestScrubRests: the background leaves the machine to others, and more so while somebody waits for a clone.
func TestScrubRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := false
		o := newWorld().Scrub(time.Hour, func() bool { return busy })
		if o.Every != time.Hour {
			t.Errorf("each %v", o.Every)
		}
		for _, want := range []time.Duration{10 * time.Millisecond, 1010 * time.Millisecond} {
			begun := time.Now()
			if err := o.Pace(t.Context()); err != nil || time.Since(begun) != want {
				t.Errorf("rested %v, want %v: %v", time.Since(begun), want, err)
			}
			busy = true
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := o.Pace(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
		o.Failed(snapshot.Golden{Name: "shop"}, errors.New("boom"))
	})
}

// slowStore takes a minute to verify a golden.
type slowStore struct {
	store
	now, most, all int
}

func (s *slowStore) VerifyDigest(ctx context.Context, _ snapshot.Ref) error {
	s.now, s.all = s.now+1, s.all+1
	s.most = max(s.most, s.now)
	defer func() { s.now-- }()
	select {
	case <-time.After(time.Minute):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestVerifyIsBounded: users share the verification of a golden, and one has one at a time.
func TestVerifyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		for version := 1; version <= 5; version++ {
			w.all = append(w.all, snapshot.Golden{Name: "shop", Version: version, Current: version == 1, Access: snapshot.Access{Mode: 0o644}})
		}
		s := &slowStore{store: store{w}}
		w.opts.Store = s
		verify := func(uid int, refs ...string) {
			for _, ref := range refs {
				go func() {
					if _, err := w.Verify(t.Context(), access.User("", uid), ref); err != nil {
						t.Errorf("verify %s: %v", ref, err)
					}
				}()
			}
			synctest.Wait()
		}
		verify(1001, "shop:1")
		verify(1002, "shop:1")
		verify(1003, "shop:1", "shop")
		if s.now != 1 || s.all != 1 {
			t.Errorf("four wait for the same golden: %d verifications", s.all)
		}
		verify(1001, "shop:2", "shop:3", "shop:4")
		verify(1004, "shop:5")
		<-time.After(time.Hour)
		synctest.Wait()
		if s.now != 0 || s.most > 3 {
			t.Errorf("%d verifications at a time, %d go on", s.most, s.now)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Verify(ctx, access.User("", 1001), "shop:1"); !errors.Is(err, context.Canceled) {
			t.Errorf("a caller who has gone: %v", err)
		}
		synctest.Wait()
		if s.now != 0 {
			t.Error("it is verified for nobody")
		}
	})
}
