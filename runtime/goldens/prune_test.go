package goldens

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// shop is a version of shop, days old. Each is 10 bytes, 0644 and its owner's.
func shop(version, days, owner int, change func(*snapshot.Golden)) snapshot.Golden {
	g := snapshot.Golden{Name: "shop", Version: version, Size: 10, Snapshot: fmt.Sprint("s", version), Access: snapshot.Access{Owner: owner, Mode: 0o644}}
	g.Created = time.Now().Add(-time.Duration(days) * 24 * time.Hour)
	if change != nil {
		change(&g)
	}
	return g
}

func refs[T any](list []T, ref func(T) string) string {
	var all []string
	for _, one := range list {
		all = append(all, ref(one))
	}
	return strings.Join(all, " ")
}

func apiRef(g api.Golden) string         { return fmt.Sprint(g.Name, ":", g.Version) }
func goldenRef(g snapshot.Golden) string { return g.Ref().String() }

func (w *world) refs() string { return refs(w.all, goldenRef) }

const days = api.Duration(24 * time.Hour)

func TestPrune(t *testing.T) {
	user := access.User("ann", 7)
	for name, tt := range map[string]struct {
		change func(*snapshot.Golden)
		live   map[string]int
		by     access.Caller
		req    api.PruneRequest
		gone   string
	}{
		"newest stay":       {by: access.Daemon, req: api.PruneRequest{Keep: 3}, gone: "shop:1 shop:2"},
		"all but current":   {by: access.Daemon, req: api.PruneRequest{Keep: 1}, gone: "shop:1 shop:2 shop:3"},
		"lately used stay":  {by: access.Daemon, req: api.PruneRequest{UnusedFor: 20 * days}, gone: "shop:1 shop:2"},
		"both":              {by: access.Daemon, req: api.PruneRequest{UnusedFor: 5 * days, Keep: 4}, gone: "shop:1"},
		"other name":        {by: access.Daemon, req: api.PruneRequest{Keep: 1, Name: "others"}},
		"with clones":       {by: access.Daemon, req: api.PruneRequest{Keep: 2}, live: map[string]int{"shop:2": 1}, gone: "shop:1 shop:3"},
		"of somebody else":  {by: user, req: api.PruneRequest{Keep: 1}},
		"their own":         {by: user, req: api.PruneRequest{Keep: 1}, change: func(g *snapshot.Golden) { g.Access.Owner = 7 }, gone: "shop:1 shop:2 shop:3"},
		"of nobody":         {req: api.PruneRequest{Keep: 1}},
		"protected":         {by: access.Daemon, req: api.PruneRequest{Keep: 1}, change: func(g *snapshot.Golden) { g.Access.Protected = true }},
		"built on":          {by: access.Daemon, req: api.PruneRequest{UnusedFor: 20 * days}, change: parentOf(3, "shop:2"), gone: "shop:1"},
		"both of a lineage": {by: access.Daemon, req: api.PruneRequest{UnusedFor: 20 * days}, change: parentOf(2, "shop:1"), gone: "shop:2 shop:1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			for version, old := range []int{40, 30, 10, 5, 1} {
				w.all = append(w.all, shop(version+1, old, 1, tt.change))
			}
			w.all[3].Current, w.live = true, map[string]int{}
			if tt.live != nil {
				w.live = tt.live
			}
			was := w.refs()
			dry := tt.req
			dry.DryRun = true
			if list, err := w.Prune(t.Context(), tt.by, dry); err != nil || refs(list, apiRef) != tt.gone || w.refs() != was {
				t.Errorf("dry run: %s %v, left %s", refs(list, apiRef), err, w.refs())
			}
			list, err := w.Prune(t.Context(), tt.by, tt.req)
			if err != nil || refs(list, apiRef) != tt.gone {
				t.Errorf("pruned %s %v, want %s", refs(list, apiRef), err, tt.gone)
			}
			for one := range strings.FieldsSeq(was) {
				if gone := !strings.Contains(w.refs(), one); gone != strings.Contains(tt.gone, one) {
					t.Errorf("%s is gone: %t", one, gone)
				}
			}
		})
	}
}

func parentOf(version int, parent string) func(*snapshot.Golden) {
	return func(g *snapshot.Golden) {
		if g.Version == version {
			g.Parent = parent
		}
	}
}

// TestPruneRaces: what becomes current, protected or used after it was chosen stays, and is no error.
func TestPruneRaces(t *testing.T) {
	for name, change := range map[string]func(w *world){
		"current":   func(w *world) { w.all[0].Current = true },
		"protected": func(w *world) { w.all[0].Access.Protected = true },
		"anew":      func(w *world) { w.all[0].Snapshot = "another" },
		"gone":      func(w *world) { w.all = nil },
		"used":      func(w *world) { w.fail = errdefs.ErrFailedPrecondition },
	} {
		w := newWorld(shop(1, 9, 1, nil))
		was := w.all[0]
		change(w)
		if removed, err := w.removeIfUnused(t.Context(), access.Daemon, was, "test"); removed || err != nil {
			t.Errorf("%s: %t %v", name, removed, err)
		}
	}
}

func TestPruneAsksForAPolicy(t *testing.T) {
	w := newWorld(shop(1, 9, 1, nil))
	for _, req := range []api.PruneRequest{{}, {Keep: -1}, {Keep: 1, UnusedFor: -1}, {Keep: 1, Name: "../x"}} {
		if _, err := w.Prune(t.Context(), access.Daemon, req); !errdefs.IsInvalidArgument(err) || len(w.all) != 1 {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

// TestMakeRoom: keyed goldens go until there is room, first those of the user who holds most, unused longest first.
func TestMakeRoom(t *testing.T) {
	keyed := func(g *snapshot.Golden) { g.Key = "k" }
	w := newWorld(shop(1, 40, 1, keyed), shop(2, 20, 2, keyed), shop(3, 30, 2, keyed), shop(4, 50, 2, nil),
		shop(5, 60, 2, func(g *snapshot.Golden) { g.Key, g.Access.Protected = "k", true }),
		shop(6, 70, 2, func(g *snapshot.Golden) { g.Key, g.Current = "k", true }), shop(7, 80, 2, keyed))
	w.live = map[string]int{"shop:7": 1}
	if _, err := w.MakeRoom(t.Context(), 0); err != nil || len(w.all) != 7 {
		t.Errorf("none needed: %s %v", w.refs(), err)
	}
	for _, want := range []string{"shop:1 shop:2 shop:4", "shop:1 shop:4", "shop:4", "shop:4"} {
		want += " shop:5 shop:6 shop:7"
		if _, err := w.MakeRoom(t.Context(), 10); err != nil || w.refs() != want {
			t.Errorf("left %s %v, want %s", w.refs(), err, want)
		}
	}
}

func TestUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "uses")
		u, err := OpenUses(file)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		old := shop(1, 40, 1, nil)
		if last := u.Last(old); !last.Equal(began) {
			t.Errorf("not known before %s: %s", began, last)
		}
		hub := event.New()
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); u.Follow(ctx, hub, slog.New(slog.DiscardHandler)) }()
		<-time.After(time.Hour)
		used := time.Now()
		hub.Emit(event.Event{Event: api.Event{Type: api.EventCloneCreated, Clone: "c", Golden: "shop:1"}})
		hub.Emit(event.Event{Event: api.Event{Type: api.EventCloneCreated, Clone: "c", Golden: "shop:2"}})
		<-time.After(2 * saveEvery) // it is on the disk whatever becomes of the daemon
		if u, err := OpenUses(file); err != nil || !u.Last(old).Equal(used) {
			t.Errorf("after a crash: %s %v", u.Last(old), err)
		}
		hub.Emit(event.Event{Event: api.Event{Type: api.EventGoldenRemoved, Golden: "shop:1"}})
		synctest.Wait()
		stop()
		<-done
		u, err = OpenUses(file)
		if err != nil || !u.Last(old).Equal(began) || !u.Last(shop(2, 1, 1, nil)).Equal(used) {
			t.Errorf("after a restart: %s %s %v", u.Last(old), u.Last(shop(2, 1, 1, nil)), err)
		}
		if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if u, err = OpenUses(file); err == nil || !u.Last(old).Equal(time.Now()) {
			t.Errorf("of a damaged file: %s %v", u.Last(old), err)
		}
	})
}

func TestPruner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keyed := func(g *snapshot.Golden) { g.Key = "k" }
		w := newWorld(shop(1, 40, 1, keyed), shop(2, 40, 1, keyed), shop(3, 40, 1, func(g *snapshot.Golden) { g.Current = true }))
		w.live = map[string]int{}
		var short int64
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Pruner{Goldens: w.Goldens, Policy: api.PruneRequest{Keep: 2}, Short: func() int64 { return short }, Log: slog.New(slog.DiscardHandler)}.Run(ctx)
		}()
		synctest.Wait()
		if want := "shop:2 shop:3"; w.refs() != want {
			t.Errorf("left %s, want %s", w.refs(), want)
		}
		w.all = slices.Insert(w.all, 0, shop(1, 40, 1, keyed))
		short = 5 // what is removed is not free at once, and not removed twice for that
		<-time.After(3 * roomEvery)
		synctest.Wait()
		if want := "shop:2 shop:3"; w.refs() != want {
			t.Errorf("left %s, want %s", w.refs(), want)
		}
		<-time.After(freeAfter)
		synctest.Wait()
		if want := "shop:3"; w.refs() != want {
			t.Errorf("left %s, want %s", w.refs(), want)
		}
		stop()
		<-done
		Pruner{Goldens: w.Goldens, Log: slog.New(slog.DiscardHandler)}.Run(t.Context()) // it has nothing to do
	})
}
