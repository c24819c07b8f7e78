package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/engine/catalog"
	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres"
	"github.com/ctrsnap/ctrsnap/runtime/gc"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// litter is a kind whose things can be removed but for some.
type litter struct{ names, stuck []string }

func (l *litter) kind(name string) gc.Kind {
	return gc.Kind{
		Name: name, List: func(context.Context) ([]string, error) { return append([]string(nil), l.names...), nil },
		Remove: func(_ context.Context, name string) error {
			for _, s := range l.stuck {
				if s == name {
					return errors.New("busy")
				}
			}
			l.names = strings.Fields(strings.Replace(strings.Join(l.names, " "), name, "", 1))
			return nil
		},
	}
}

func newHost(t *testing.T, o Options) (*Host, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	o.Owners = func(context.Context) (map[string]bool, error) { return map[string]bool{"had": true}, nil }
	return New(o), log
}

// TestGC shows what nobody has, removes it when it is told to, and says what could not be removed.
func TestGC(t *testing.T) {
	cups, plates := &litter{names: []string{"had", "left", "old"}, stuck: []string{"old"}}, &litter{}
	h, log := newHost(t, Options{Kinds: []gc.Kind{cups.kind("cups"), plates.kind("plates")}})
	want := api.GC{Schema: api.Schema, Kinds: []api.GCKind{
		{Kind: "cups", Used: 1, Orphans: []string{"left", "old"}},
		{Kind: "plates", Orphans: []string{}},
	}}
	for range 2 {
		if diff := cmp.Diff(want, h.gc(t.Context(), false)); diff != "" {
			t.Error(diff)
		}
	}
	want.Removed, want.Kinds[0].Errors = true, []string{"remove old: busy"}
	if diff := cmp.Diff(want, h.gc(t.Context(), true)); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(log.String(), "remove old: busy") {
		t.Errorf("the log says nothing of it: %s", log)
	}
	want.Removed, want.Kinds[0] = false, api.GCKind{Kind: "cups", Used: 1, Orphans: []string{"old"}}
	if diff := cmp.Diff(want, h.gc(t.Context(), false)); diff != "" {
		t.Error(diff)
	}
}

// TestRecover removes what an earlier daemon has left, and goes on telling of it.
func TestRecover(t *testing.T) {
	cups := &litter{names: []string{"had", "left"}}
	h, log := newHost(t, Options{Kinds: []gc.Kind{cups.kind("cups")}})
	h.Recover(t.Context(), api.GCStart{Adopted: 3, Orphans: 1})
	want := api.GCStart{Adopted: 3, Orphans: 1, Kinds: []api.GCKind{{Kind: "cups", Used: 1, Orphans: []string{"left"}}}}
	if diff := cmp.Diff(want, h.gc(t.Context(), false).Start); diff != "" {
		t.Error(diff)
	}
	if len(cups.names) != 1 {
		t.Errorf("there are %v", cups.names)
	}
	for _, want := range []string{"adopted=3", "orphans=1", "cups=[left]"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log says nothing of %s: %s", want, log)
		}
	}
}

// wire is something that can be looked at, and mends when it is looked at if it can.
type wire struct {
	err   error
	mends bool
}

func (w *wire) String() string { return "wire" }

func (w *wire) Verify(context.Context) error {
	err := w.err
	if w.mends {
		w.err = nil
	}
	return err
}

// TestDoctor has the checks in their order, with a hint as what to do.
func TestDoctor(t *testing.T) {
	broken := &wire{err: snapshot.WithHint(errors.New("torn"), "tie it")}
	two := func(context.Context) []api.Check { return []api.Check{{Name: "one"}, {Name: "two"}} }
	h, _ := newHost(t, Options{Checks: []Check{two, Verified("sound", &wire{}), Verified("broken", broken)}})
	want := api.Doctor{Schema: api.Schema, Checks: []api.Check{
		{Name: "one"},
		{Name: "two"},
		{Name: "sound", Status: "ok", Detail: "wire"},
		{Name: "broken", Status: "warning", Detail: "wire", Why: "torn", Fix: "tie it"},
	}}
	if diff := cmp.Diff(want, h.look(t.Context())); diff != "" {
		t.Error(diff)
	}
}

// TestFix says of each thing that was wrong whether it is mended, and what was done.
func TestFix(t *testing.T) {
	cups := &litter{names: []string{"left", "old"}, stuck: []string{"old"}}
	mended := &wire{err: errors.New("torn")}
	h, _ := newHost(t, Options{
		Kinds: []gc.Kind{cups.kind("cups")},
		Checks: []Check{
			Verified("sound", &wire{}), Verified("looked at", &wire{err: errors.New("loose"), mends: true}),
			Verified("mended", mended), Verified("broken", &wire{err: errors.New("torn")}),
		},
		Mends: []Check{
			One(func(context.Context) api.Check { mended.err = nil; return api.Check{Name: "fix wire", Status: "ok"} }),
			MendPool(func(context.Context) error { return nil }),
			MendPool(func(context.Context) error { return errors.New("dry") }),
		},
	})
	got, err := h.Fix(t.Context(), access.Daemon)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Check{
		{Name: "sound", Status: "ok", Detail: "wire"},
		{Name: "looked at", Status: "ok", Detail: "wire (mended)"},
		{Name: "mended", Status: "ok", Detail: "wire (mended)"},
		{Name: "broken", Status: "warning", Detail: "wire", Why: "torn"},
		{Name: "fix leftovers", Status: "warning", Detail: "2 found that nobody has", Why: "remove old: busy"},
		{Name: "fix wire", Status: "ok"},
		{Name: "fix pool", Status: "ok", Detail: "it knows all goldens"},
		{Name: "fix pool", Status: "warning", Detail: "dry"},
	}
	if diff := cmp.Diff(want, got.Checks); diff != "" {
		t.Error(diff)
	}
}

// image is a storage in an image of which a trim gives back half.
type image struct {
	info    storage.Info
	grown   int64
	trimErr error
}

func (i *image) Info() (storage.Info, error) { return i.info, nil }

func (i *image) Grow(_ context.Context, size int64) error {
	i.info.ImageSize, i.grown = size, size
	return nil
}

func (i *image) Trim() (int64, error) {
	if i.trimErr == nil {
		i.info.ImageUsed /= 2
	}
	return 0, i.trimErr
}

func TestMendStorage(t *testing.T) {
	const mib = 1 << 20
	for name, tt := range map[string]struct {
		image
		size   int64
		status string
		detail string
		grown  int64
	}{
		"no image":      {image{}, mib, "ok", "it is no image", 0},
		"large enough":  {image{info: storage.Info{Image: "i", ImageSize: 100 * mib, ImageUsed: 80 * mib}}, 50 * mib, "ok", "takes 40 MiB of the host's disk, 40 MiB less", 0},
		"to be grown":   {image{info: storage.Info{Image: "i", ImageSize: 100 * mib}}, 150 * mib, "ok", "takes 0 MiB of the host's disk", 150 * mib},
		"does not trim": {image{info: storage.Info{Image: "i"}, trimErr: errors.New("no trim")}, 0, "warning", "no trim", 0},
	} {
		c := MendStorage(&tt.image, tt.size)(t.Context())[0]
		if c.Name != "fix storage" || c.Status != tt.status || !strings.Contains(c.Detail, tt.detail) || tt.grown != tt.image.grown {
			t.Errorf("%s: %+v, grown to %d", name, c, tt.image.grown)
		}
	}
}

// fakeContainerd is one of the host, with its layers at root.
type fakeContainerd struct{ root string }

func (fakeContainerd) Version() string  { return "v2.4.0" }
func (fakeContainerd) Address() string  { return "/run/c.sock" }
func (c fakeContainerd) Embedded() bool { return c.root == "" }

func (c fakeContainerd) SnapshotRoot(context.Context) (string, error) {
	if c.root == "gone" {
		return "", errors.New("no snapshotter")
	}
	return c.root, nil
}

// TestCheckStorage looks where the layers are, which need not be the storage.
func TestCheckStorage(t *testing.T) {
	own, err := storage.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	theirs := t.TempDir()
	for _, tt := range []struct{ root, at string }{{"", own.Dir()}, {theirs, theirs}} {
		checks := CheckStorage(own, fakeContainerd{tt.root})(t.Context())
		if len(checks) < 2 || checks[0].Name != "storage" || !strings.Contains(checks[0].Detail, tt.at) {
			t.Errorf("want %s in %+v", tt.at, checks)
		}
	}
	if c := CheckStorage(own, fakeContainerd{"gone"})(t.Context()); len(c) != 1 || c[0].Status != "error" || c[0].Detail != "no snapshotter" {
		t.Errorf("without layers: %+v", c)
	}
}

func TestCheckContainerd(t *testing.T) {
	for _, tt := range []struct{ root, detail, why string }{
		{"", "v2.4.0 in process, socket /run/c.sock", ""},
		{"/layers", "v2.4.0 of the host at /run/c.sock", "syncs"},
	} {
		c := CheckContainerd(fakeContainerd{tt.root})(t.Context())[0]
		if c.Status != "ok" || c.Detail != tt.detail || !strings.Contains(c.Why, tt.why) || (c.Why == "") != (tt.why == "") {
			t.Errorf("%+v", c)
		}
	}
	if c := fmt.Sprint(CheckCgroups(t.Context())); !strings.Contains(c, "cgroups ok v") {
		t.Errorf("cgroups: %s", c)
	}
}

// TestNobody: the zero Caller gets nothing by any verb; a user who is no administrator sees the
// doctor's report only.
func TestNobody(t *testing.T) {
	h := New(Options{Log: slog.New(slog.DiscardHandler), Owners: func(context.Context) (map[string]bool, error) { return nil, nil }})
	n := Networks{Default: &wire{}}
	c, _, err := catalog.Open(t.TempDir(), postgres.New())
	if err != nil {
		t.Fatal(err)
	}
	e := &Engines{Catalog: c, Log: slog.New(slog.DiscardHandler), Goldens: func(context.Context) ([]snapshot.Golden, error) { return nil, nil }}
	ctx := t.Context()
	verbs := map[string]func(access.Caller) error{
		"Doctor":   func(c access.Caller) error { _, err := h.Doctor(ctx, c); return err },
		"GC":       func(c access.Caller) error { _, err := h.GC(ctx, c, true); return err },
		"Fix":      func(c access.Caller) error { _, err := h.Fix(ctx, c); return err },
		"Networks": func(c access.Caller) error { _, err := n.Networks(ctx, c); return err },
		"Engines":  func(c access.Caller) error { _, err := e.Engines(ctx, c); return err },
		"Engine":   func(c access.Caller) error { _, err := e.Engine(ctx, c, "postgres"); return err },
		"AddEngine": func(c access.Caller) error {
			_, err := e.AddEngine(ctx, c, api.EngineRequest{})
			return err
		},
		"RemoveEngine": func(c access.Caller) error { return e.RemoveEngine(ctx, c, "none") },
	}
	for _, what := range []reflect.Type{reflect.TypeFor[*Host](), reflect.TypeFor[Networks](), reflect.TypeFor[*Engines]()} {
		for i := range what.NumMethod() {
			verb := what.Method(i)
			for n := range verb.Type.NumIn() {
				if verb.Type.In(n) == reflect.TypeFor[access.Caller]() && verbs[verb.Name] == nil {
					t.Errorf("%s takes a caller: try it with nobody", verb.Name)
				}
			}
		}
	}
	for verb, try := range verbs {
		if err := try(access.Caller{}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by nobody: %v", verb, err)
		}
		want := !slices.Contains([]string{"Doctor", "Networks", "Engines", "Engine"}, verb)
		if err := try(access.User("eve", 1002, 1002)); errdefs.IsPermissionDenied(err) != want {
			t.Errorf("%s by a user: %v", verb, err)
		}
		if err := try(access.User("admin", 1003, 1003).AsAdmin()); errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by an administrator: %v", verb, err)
		}
	}
}
