package build

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

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
	w := newWorld(t)
	w.Live = func(ref snapshot.Ref) int { return ref.Version * 10 }
	w.goldens = []snapshot.Golden{
		{Name: "other", Version: 1, Current: true},
		{Name: "shop", Version: 1, State: json.RawMessage(`"secret"`)}, {Name: "shop", Version: 3},
		{Name: "shop", Version: 4, Current: true}, {Name: "shop", Version: 5},
	}
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
