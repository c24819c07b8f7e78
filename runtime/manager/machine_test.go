package manager

import (
	"context"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestMachine holds a Manager to a model: which clones there are after any
// sequence of requests, deaths, passing time and restarts.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := rapid.SliceOfN(rapid.IntRange(0, 6), 1, 40).Draw(rt, "script")
		picks := rapid.SliceOfN(rapid.IntRange(0, 1000), len(script), len(script)).Draw(rt, "picks")
		synctest.Test(t, func(t *testing.T) { runScript(t, script, picks) })
	})
}

// modelled is a clone as the model has it.
type modelled struct {
	name    string
	expires time.Time
	dead    bool
}

func runScript(t *testing.T, script, picks []int) {
	w := newWorld(t)
	m, _ := w.manager(t)
	model := map[string]modelled{}
	for i, action := range script {
		all := slices.Sorted(maps.Keys(model))
		id := ""
		if len(all) > 0 {
			id = all[picks[i]%len(all)]
		}
		switch {
		case action == 0:
			ttl := time.Duration(1+picks[i]%50) * time.Minute
			for _, c := range create(t, m, api.CloneRequest{Count: 1 + picks[i]%3, TTL: api.Duration(ttl)}).Clones {
				model[c.ID] = modelled{expires: time.Now().Add(ttl)}
			}
		case action == 1:
			c := create(t, m, api.CloneRequest{Name: "n", IfExists: api.IfExistsReset}).Clones[0]
			maps.DeleteFunc(model, func(_ string, o modelled) bool { return o.name == "n" })
			model[c.ID] = modelled{name: "n", expires: time.Now().Add(time.Hour)}
		case action == 2:
			after(time.Duration(picks[i])*time.Second + time.Millisecond)
		case action == 3:
			var restarted *Manager
			restarted, _ = restart(t, w, m)
			m = restarted
			maps.DeleteFunc(model, func(_ string, o modelled) bool { return o.dead })
		case id == "":
		case action == 4:
			if err := m.Remove(context.Background(), access.Daemon, id, false); err != nil {
				t.Fatal(err)
			}
			delete(model, id)
		case action == 5:
			w.task(id).end(1)
			o := model[id]
			o.dead = true
			model[id] = o
		case action == 6:
			if _, err := m.Extend(context.Background(), access.Daemon, id, api.ExtendRequest{TTL: api.Duration(time.Hour)}); err != nil {
				t.Fatal(err)
			}
			o := model[id]
			o.expires = time.Now().Add(time.Hour)
			model[id] = o
		}
		synctest.Wait()
		maps.DeleteFunc(model, func(_ string, o modelled) bool { return !o.expires.After(time.Now()) })
		checkModel(t, w, m, model)
	}
}

// checkModel compares what is listed and what exists with the model.
func checkModel(t *testing.T, w *world, m *Manager, model map[string]modelled) {
	t.Helper()
	want := slices.Sorted(maps.Keys(model))
	got := ids(t, m)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("listed: %s", diff)
	}
	drain(t, m)
	if left := w.left(t); len(left) != 5*len(model) {
		t.Fatalf("%d clones, but there is %v", len(model), left)
	}
	for id, o := range model {
		c, err := m.Get(context.Background(), access.Daemon, id)
		if err != nil || !c.ExpiresAt.Equal(o.expires) || (c.State == api.StateDead) != o.dead {
			t.Fatalf("want %+v, got %+v, %v", o, c, err)
		}
	}
}
