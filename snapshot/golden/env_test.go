package golden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
)

// env is a Store with one base to build on.
type env struct {
	*Store
	ctx    context.Context
	srv    *containerd.Server
	base   string
	builds int
}

func newEnv(t *testing.T, srv *containerd.Server, o Options) *env {
	t.Helper()
	e := &env{Store: New(srv.Client(), o), ctx: t.Context(), srv: srv, base: "base-" + filepath.Base(t.Name())}
	ctx := namespaced(e.ctx)
	root := snapshots.WithLabels(map[string]string{labelRoot: "x"})
	mounts, err := e.snapshots.Prepare(ctx, "active-"+e.base, "", root)
	do(t, err)
	write(t, mounts[0].Source, "base", "base")
	do(t, e.snapshots.Commit(ctx, e.base, "active-"+e.base, root))
	return e
}

// commit builds a golden with one file.
func (e *env) commit(t *testing.T, name, parent, file, data string) snapshot.Golden {
	t.Helper()
	return e.commitAs(t, name, parent, file, data, snapshot.Access{})
}

// commitAs builds one that says whose it is.
func (e *env) commitAs(t *testing.T, name, parent, file, data string, a snapshot.Access) snapshot.Golden {
	t.Helper()
	e.builds++
	b, err := e.Begin(e.ctx, fmt.Sprintf("b%s%d", strings.ToLower(filepath.Base(t.Name())), e.builds), parent)
	do(t, err)
	dir := t.TempDir()
	do(t, mount.All(b.Mounts(), dir))
	write(t, dir, file, data)
	do(t, mount.UnmountAll(dir, 0))
	g, err := b.Commit(e.ctx, snapshot.Golden{Name: name, Description: snapshot.Description{Engine: "postgres", Base: snapshot.Base{Snapshot: parent}}, Access: a})
	do(t, err)
	do(t, b.Close(e.ctx)) // discards nothing that was committed
	return g
}

// prepare makes and mounts a clone.
func (e *env) prepare(t *testing.T, id string, g snapshot.Golden) string {
	t.Helper()
	mounts, err := e.Prepare(e.ctx, id, g)
	do(t, err)
	return e.mount(t, mounts)
}

func (e *env) mount(t *testing.T, mounts []mount.Mount) string {
	t.Helper()
	dir := t.TempDir()
	do(t, mount.All(mounts, dir))
	t.Cleanup(func() { mount.UnmountAll(dir, 0) })
	return dir
}

// assertGoldens compares "name:version" of all goldens, current ones with "*".
func (e *env) assertGoldens(t *testing.T, want ...string) {
	t.Helper()
	all, err := e.Goldens(e.ctx)
	do(t, err)
	var got []string
	for _, g := range all {
		s := g.Ref().String()
		if g.Current {
			s += "*"
		}
		got = append(got, s)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("goldens: %s", diff)
	}
}

// assertNoBuild fails if builds have left leases or snapshots.
func (e *env) assertNoBuild(t *testing.T) {
	t.Helper()
	ctx := namespaced(e.ctx)
	all, err := e.leases.List(ctx)
	do(t, err)
	for _, l := range all {
		t.Errorf("lease left: %v", l)
	}
	keys, err := e.keys(ctx, fmt.Sprintf("labels.%q==%s", snapshot.LabelKind, snapshot.KindBuild))
	do(t, err)
	if len(keys) > 0 {
		t.Errorf("snapshots left: %q", keys)
	}
}

// assertEmpty fails if anything but the base is there after a collection, and
// then removes the base.
func (e *env) assertEmpty(t *testing.T) {
	t.Helper()
	ctx := namespaced(e.ctx)
	e.assertGoldens(t)
	e.assertNoBuild(t)
	do(t, e.collect(ctx))
	info := snapshots.Info{Name: e.base, Labels: map[string]string{}}
	_, err := e.snapshots.Update(ctx, info, "labels")
	do(t, err)
	do(t, e.collect(ctx))
	keys, err := e.keys(ctx, "")
	do(t, err)
	if len(keys) > 0 {
		t.Errorf("snapshots left: %q", keys)
	}
	do(t, e.records.content.Walk(ctx, func(i content.Info) error {
		t.Errorf("content left: %v", i.Digest)
		return nil
	}))
}

// failAt calls fail before step.
func failAt(step string, fail func() error) func(string) error {
	return func(s string) error {
		if s == step {
			return fail()
		}
		return nil
	}
}

func stop(t *testing.T, srv *containerd.Server) {
	if err := srv.Stop(context.Background()); err != nil {
		t.Error(err)
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name, data string) {
	t.Helper()
	do(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	do(t, err)
	return strings.TrimSpace(string(b))
}

func mustRef(t *testing.T, s string) snapshot.Ref {
	t.Helper()
	ref, err := snapshot.ParseRef(s)
	do(t, err)
	return ref
}

// hint returns the advice that err carries.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}
