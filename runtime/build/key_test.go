package build

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestKeyHit(t *testing.T) {
	w := newWorld(t)
	parts := w.parts(shop())
	w.goldens = []snapshot.Golden{
		{Name: "shop", Version: 1, Key: "old"},
		{Name: "shop", Version: 2, Key: "twice"},
		{Name: "shop", Version: 3, Key: "twice"},
		{Name: "shop", Version: 4, Key: "now", Current: true},
		{Name: "shop", Version: 5, Key: "now"},
		{Name: "other", Version: 9, Key: "else"},
	}
	for i := range w.goldens {
		w.goldens[i].Engine, w.goldens[i].KeyParts = "postgres", parts
	}
	w.calls = nil
	for key, version := range map[string]int{"old": 1, "twice": 3, "now": 4} {
		for _, checkOnly := range []bool{false, true} {
			r := shop()
			r.Key, r.CheckOnly = key, checkOnly
			r.onPart = func() { t.Error("part read") }
			start := time.Now()
			g, existed, err := w.run(t.Context(), r)
			if err != nil || !existed || g.Version != version || len(r.events) > 0 {
				t.Errorf("key %s: version %d, existed %v, error %v, events %v", key, g.Version, existed, err, r.events)
			}
			if d := time.Since(start); d > 20*time.Millisecond {
				t.Errorf("hit took %v", d)
			}
		}
	}
	if calls := slices.Compact(slices.Clone(w.calls)); !slices.Equal(calls, []string{"engine.Host"}) { // which programs there are
		t.Errorf("calls %q", calls)
	}
	r := shop()
	r.Key, r.CheckOnly = "else", true
	if _, _, err := w.run(t.Context(), r); !errdefs.IsNotFound(err) {
		t.Errorf("check of an unknown key: %v", err)
	}
	r.CheckOnly = false
	if g, existed, err := w.run(t.Context(), r); err != nil || existed || g.Version != 6 {
		t.Errorf("miss: %+v %v %v", g, existed, err)
	}
}

// parts are those of the key of a request.
func (w *world) parts(r *request) map[string]string {
	w.t.Helper()
	j := &job{Builder: w.Builder, caller: ada, req: r.BuildRequest}
	j.req.Key = "k"
	if err := w.plan(w.t.Context(), j); err != nil {
		w.t.Fatal(err)
	}
	return j.parts
}

// TestKeyParts: whatever else makes a golden, another value of it makes another golden.
func TestKeyParts(t *testing.T) {
	w := newWorld(t)
	w.goldens = []snapshot.Golden{{Name: "base", Version: 1, Description: snapshot.Description{Engine: "postgres", Digest: "d1"}, Current: true, Snapshot: "s"}}
	mask := strings.Repeat("a", 32)
	values := []func(r *request){
		func(*request) {},
		func(r *request) { r.Exec = []string{"make"} },
		func(r *request) { r.Exec = []string{"make", "make"} },
		func(r *request) { r.Settings = map[string]string{"a": "1"} },
		func(r *request) { r.Settings = map[string]string{"a": "2"} },
		func(r *request) { r.Env = map[string]string{"a": "1"} },
		func(r *request) { r.User = "ada" },
		func(r *request) { r.Password = "ada" },
		func(r *request) { r.Database = "ada" },
		func(r *request) { r.FromURL = "postgres://db/shop" },
		func(r *request) { r.FromURL = "postgres://db2/shop" },
		func(r *request) { r.Image = "postgres:15" },
		func(r *request) { r.Image = "postgres:16" },
		func(r *request) { r.Archive = true },
		func(r *request) { r.Engine = "redis" },
		func(r *request) { r.Parent = "base" },
		func(r *request) { r.KeyParts = map[string]string{"mask": mask} },
		func(r *request) { r.KeyParts = map[string]string{"init": mask} },
		func(r *request) { r.KeyParts = map[string]string{"mask": strings.Repeat("b", 32)} },
	}
	var all []map[string]string
	for i, set := range values {
		r := shop()
		set(r)
		parts := w.parts(r)
		if j := slices.IndexFunc(all, func(p map[string]string) bool { return maps.Equal(p, parts) }); j >= 0 {
			t.Errorf("values %d and %d make one golden", j, i)
		}
		if !maps.Equal(parts, w.parts(r)) {
			t.Errorf("value %d makes two goldens", i)
		}
		all = append(all, parts)
	}
	other := shop()
	other.Parent = "base"
	before := w.parts(other)
	w.goldens[0].Digest = "d2"
	if maps.Equal(before, w.parts(other)) {
		t.Error("another parent makes the same golden")
	}
	for _, wrong := range []map[string]string{{"mask": "short"}, {"no-kind": mask}} {
		r := shop()
		r.Key, r.KeyParts = "k", wrong
		if _, _, err := w.run(t.Context(), r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("parts %v: %v", wrong, err)
		}
	}
}

// TestKeyOfAnOlderRelease: a golden of which nobody knows what made it is none that a key finds.
func TestKeyOfAnOlderRelease(t *testing.T) {
	w := newWorld(t)
	w.goldens = []snapshot.Golden{{Name: "shop", Version: 1, Description: snapshot.Description{Engine: "postgres"}, Current: true, Key: "k"}}
	r := shop()
	r.Key = "k"
	if g, existed, err := w.run(t.Context(), r); err != nil || existed || g.Version != 2 || len(g.KeyParts) == 0 {
		t.Errorf("%+v, %t, %v", g, existed, err)
	}
}

// TestEngineIsKept: a name does not change its engine unless that is asked for.
func TestEngineIsKept(t *testing.T) {
	w := newWorld(t)
	w.goldens = []snapshot.Golden{{Name: "shop", Version: 1, Description: snapshot.Description{Engine: "postgres"}, Current: true}}
	r := shop()
	r.Engine = "redis"
	r.onPart = func() { t.Error("part read") }
	if _, _, err := w.run(t.Context(), r); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "engine postgres, not redis") {
		t.Errorf("another engine: %v", err)
	}
	r = shop()
	r.Engine, r.Force = "redis", true
	if g, _, err := w.run(t.Context(), r); err != nil || g.Engine != "redis" || g.Version != 2 {
		t.Errorf("by force: %+v, %v", g, err)
	}
}

// blocked makes the engine wait: it says that it has begun and goes on when
// it is told.
func (w *world) blocked() (begun chan string, goOn chan error) {
	begun, goOn = make(chan string, 10), make(chan error)
	w.engine = func(ctx context.Context, _ runtime.Workbench, src runtime.Sources) (b runtime.Built, err error) {
		begun <- src.Golden
		select {
		case err := <-goOn:
			return b, err
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
	return begun, goOn
}

type result struct {
	g       api.Golden
	existed bool
	err     error
}

func (w *world) start(ctx context.Context, r *request) <-chan result {
	done := make(chan result, 1)
	go func() {
		var res result
		res.g, res.existed, res.err = w.run(ctx, r)
		done <- res
	}()
	return done
}

// untilStep starts the build and returns when it has told that step begins.
func (w *world) untilStep(ctx context.Context, r *request, step string) <-chan result {
	w.t.Helper()
	seen := make(chan struct{})
	var once sync.Once
	r.on = func(e api.BuildEvent) {
		if e.Step == step {
			once.Do(func() { close(seen) })
		}
	}
	done := w.start(ctx, r)
	select {
	case <-seen:
	case res := <-done:
		w.t.Fatalf("build ended before step %q: %+v", step, res)
	case <-time.After(10 * time.Second):
		w.t.Fatalf("no step %q", step)
	}
	return done
}

func keyed(name string) *request {
	r := shop()
	r.Name, r.Key = name, "k"
	return r
}

const waitsForKey = "wait for the build of the same key"

func TestSameKeyWaitsAndHits(t *testing.T) {
	w := newWorld(t)
	begun, goOn := w.blocked()
	first := w.start(t.Context(), keyed("shop"))
	<-begun
	second := w.untilStep(t.Context(), keyed("shop"), waitsForKey)
	ctx, cancel := context.WithCancel(t.Context())
	third := w.untilStep(ctx, keyed("shop"), waitsForKey)
	cancel()
	if res := <-third; !errors.Is(res.err, context.Canceled) {
		t.Errorf("third: %+v", res)
	}
	// Another name with the same key does not wait.
	other := w.start(t.Context(), keyed("other"))
	<-begun
	goOn <- nil
	goOn <- nil
	for _, done := range []<-chan result{first, other} {
		if res := <-done; res.err != nil || res.existed {
			t.Errorf("builder: %+v", res)
		}
	}
	if res := <-second; res.err != nil || !res.existed || res.g.Version != 1 {
		t.Errorf("second: %+v", res)
	}
	w.checkNothingLeft()
}

func TestSameKeyBuildsAfterFailure(t *testing.T) {
	w := newWorld(t)
	begun, goOn := w.blocked()
	first := w.start(t.Context(), keyed("shop"))
	<-begun
	second := w.untilStep(t.Context(), keyed("shop"), waitsForKey)
	goOn <- errBoom
	if res := <-first; !errors.Is(res.err, errBoom) {
		t.Errorf("first: %+v", res)
	}
	<-begun
	goOn <- nil
	if res := <-second; res.err != nil || res.existed {
		t.Errorf("second: %+v", res)
	}
	w.checkNothingLeft()
}

func TestGate(t *testing.T) {
	w := newWorld(t)
	begun, goOn := w.blocked()
	var running, most atomic.Int32
	inner := w.engine
	w.engine = func(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (runtime.Built, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		return inner(ctx, wb, src)
	}
	var all []<-chan result
	for range 2 {
		all = append(all, w.start(t.Context(), shop()))
		<-begun
	}
	all = append(all, w.untilStep(t.Context(), shop(), "wait: 2 builds are under way, place 1 in the queue"))
	ctx, cancel := context.WithCancel(t.Context())
	gone := w.untilStep(ctx, shop(), "wait: 2 builds are under way, place 2 in the queue")
	cancel()
	if res := <-gone; !errors.Is(res.err, context.Canceled) {
		t.Errorf("waiter: %+v", res)
	}
	for range all {
		goOn <- nil
	}
	versions := map[int]bool{}
	for _, done := range all {
		res := <-done
		if res.err != nil || res.existed {
			t.Errorf("%+v", res)
		}
		versions[res.g.Version] = true
	}
	if len(versions) != 3 || most.Load() != 2 {
		t.Errorf("versions %v, at once %d", versions, most.Load())
	}
	w.checkNothingLeft()
}

func TestValidate(t *testing.T) {
	w := newWorld(t)
	long := string(make([]byte, 300))
	for name, change := range map[string]func(*request){
		"slash in name":      func(r *request) { r.Name = "a/b" },
		"dots in name":       func(r *request) { r.Name = ".." },
		"empty name":         func(r *request) { r.Name = "" },
		"two bases":          func(r *request) { r.Image, r.FromHost = "x", true },
		"prefix with image":  func(r *request) { r.Image, r.Prefix = "x", "/opt" },
		"parent and archive": func(r *request) { r.Parent, r.Archive = "x", true },
		"parent's name":      func(r *request) { r.Parent = "a/b" },
		"image with space":   func(r *request) { r.Image = "a b" },
		"engine":             func(r *request) { r.Engine = "oracle" },
		"key with space":     func(r *request) { r.Key = "a b" },
		"long key":           func(r *request) { r.Key = long },
		"check without key":  func(r *request) { r.CheckOnly = true },
		"empty command":      func(r *request) { r.Exec = []string{" "} },
		"zero in command":    func(r *request) { r.Exec = []string{"a\x00b"} },
		"env name":           func(r *request) { r.Env = map[string]string{"A=B": ""} },
		"env value":          func(r *request) { r.Env = map[string]string{"A": "\x00"} },
		"zero in user":       func(r *request) { r.User = "\x00" },
		"relative prefix":    func(r *request) { r.Prefix = "opt" },
		"dots in prefix":     func(r *request) { r.Prefix = "/opt/../etc" },
		"no URL":             func(r *request) { r.FromURL = "host=db password=secret" },
		"malformed URL":      func(r *request) { r.FromURL = "postgres://u:secret@db:x:y/" },
		"no sources":         func(r *request) { r.parts = nil },
		"mask only":          func(r *request) { r.parts = []api.Part{part("mask", "m", "")} },
		"unknown part":       func(r *request) { r.parts = []api.Part{part("x", "m", "")} },
		"part without name":  func(r *request) { r.parts = []api.Part{part("init", "", "")} },
		"dump and directory": func(r *request) { r.parts = []api.Part{part("dump", "a", ""), part("dir-tar", "b", "")} },
		"on_error":           func(r *request) { r.OnError, r.parts = "ignore", []api.Part{part("dump", "a", "")} },
		"user and login":     func(r *request) { r.User, r.Login, r.parts = "a", "b", []api.Part{part("dump", "a", "")} },
		"dump and URL": func(r *request) {
			r.FromURL = "postgres://db/x"
			r.parts = []api.Part{part("dump", "a", "")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := shop()
			change(r)
			_, _, err := w.run(t.Context(), r)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			if err != nil && (strings.Contains(err.Error()+hintOf(err), "secret")) {
				t.Errorf("secret in error %v", err)
			}
			w.checkNothingLeft()
		})
	}
}

func TestUnknownEngineListsEngines(t *testing.T) {
	w := newWorld(t)
	r := shop()
	r.Engine = "oracle"
	_, _, err := w.run(t.Context(), r)
	if hintOf(err) != "engines: postgres, redis" {
		t.Errorf("hint %q", hintOf(err))
	}
}
