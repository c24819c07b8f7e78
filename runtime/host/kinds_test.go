package host

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/gc"
)

// world has ids of everything: one that somebody has, and one that nobody has. It notes what is removed.
type world struct {
	clone, build, sandbox, lost string
	removed                     []string
}

func (w *world) all() []string { return []string{w.clone, w.build, w.sandbox, w.lost} }

func (w *world) remove(what string) func(context.Context, string) error {
	return func(_ context.Context, id string) error {
		w.removed = append(w.removed, what+" "+id)
		return nil
	}
}

type fakeRunner struct{ *world }

func (f fakeRunner) Containers(_ context.Context, labels map[string]string) ([]runtime.ContainerInfo, error) {
	if labels["ctrsnap.io/kind"] == "build" {
		return []runtime.ContainerInfo{{ID: f.build}}, nil
	}
	return []runtime.ContainerInfo{{ID: f.clone}, {ID: f.lost}}, nil
}

func (f fakeRunner) Delete(ctx context.Context, id string) error {
	return f.remove("container")(ctx, id)
}
func (f fakeRunner) Cgroups() ([]string, error) { return f.all(), nil }
func (f fakeRunner) RemoveCgroup(ctx context.Context, id string) error {
	return f.remove("cgroup")(ctx, id)
}
func (f fakeRunner) LooseFIFOs() ([]string, error) { return nil, nil }

type fakeStore struct{ *world }

func (f fakeStore) Clones(context.Context) ([]string, error) { return []string{f.clone, f.lost}, nil }
func (f fakeStore) Builds(context.Context) ([]string, error) {
	return []string{f.build, "blost0000000"}, nil
}
func (f fakeStore) Remove(ctx context.Context, id string) error {
	return f.remove("snapshot")(ctx, id)
}

func (f fakeStore) RemoveBuild(ctx context.Context, id string) error {
	return f.remove("build snapshot")(ctx, id)
}

type fakeNetwork struct{ *world }

func (f fakeNetwork) Namespaces(context.Context) ([]string, error) { return f.all(), nil }
func (f fakeNetwork) Loose(context.Context) ([]string, error)      { return []string{"10.0.0.9"}, nil }
func (f fakeNetwork) Remove(ctx context.Context, id string) error {
	return f.remove("namespace")(ctx, id)
}

func (f fakeNetwork) Reconcile(ctx context.Context, keep []string) error {
	return f.remove("loose but of")(ctx, strings.Join(keep, ","))
}

type fakeRules struct{ *world }

func (f fakeRules) StrayRules(context.Context) ([]string, error) { return []string{"egress"}, nil }
func (f fakeRules) CleanRules(ctx context.Context) error         { return f.remove("rules")(ctx, "all") }

type fakePorts struct{ *world }

func (f fakePorts) Published(context.Context) ([]string, error) { return f.all(), nil }
func (f fakePorts) Unpublish(ctx context.Context, id string) error {
	return f.remove("port")(ctx, id)
}

type fakeInterfaces struct{ *world }

func (f fakeInterfaces) IDs() ([]string, error) { return f.all(), nil }
func (f fakeInterfaces) Forget(ctx context.Context, id string) error {
	return f.remove("interface")(ctx, id)
}

type cloneIDs string

func (c cloneIDs) IDs() map[string]bool { return map[string]bool{string(c): true} }

type buildIDs string

func (b buildIDs) IDs() []string { return []string{string(b)} }

func newParts(t *testing.T) (*Parts, *world) {
	t.Helper()
	w := &world{clone: "chad00000000", build: "bhad00000000", sandbox: "shad00000000", lost: "clost0000000"}
	dir := t.TempDir()
	return &Parts{
		Dirs:   Dirs{Root: dir, State: filepath.Join(dir, "state"), Storage: filepath.Join(dir, "storage")},
		Runner: fakeRunner{w}, Store: fakeStore{w}, Network: fakeNetwork{w}, Rules: fakeRules{w}, Ports: fakePorts{w}, Interfaces: fakeInterfaces{w},
		Clones: cloneIDs(w.clone), Builds: buildIDs(w.build),
		Sandboxes: func(context.Context) ([]string, error) { return []string{w.sandbox}, nil },
	}, w
}

func makeDirs(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKinds removes what nobody has, in an order in which nothing is held by what is left, and nothing else.
func TestKinds(t *testing.T) {
	p, w := newParts(t)
	var dirs []string
	for _, id := range w.all() {
		dirs = append(dirs, filepath.Join(p.State, "clones", id))
	}
	makeDirs(t, append(dirs, filepath.Join(p.State, "clones/none"))...)
	for _, f := range gc.Remove(t.Context(), p.Kinds(), p.Owners) {
		if f.Err != nil {
			t.Errorf("%s: %v", f.Kind, f.Err)
		}
	}
	want := []string{
		"container clost0000000", "cgroup clost0000000", "port clost0000000", "interface clost0000000", "namespace clost0000000",
		"loose but of chad00000000,bhad00000000,shad00000000,clost0000000", "rules all", "snapshot clost0000000", "build snapshot blost0000000",
	}
	if diff := cmp.Diff(want, w.removed); diff != "" {
		t.Error(diff)
	}
	left, err := filepath.Glob(filepath.Join(p.State, "clones/*"))
	if want := append(dirs[:3:3], filepath.Join(p.State, "clones/none")); err != nil || !cmp.Equal(slices.Sorted(slices.Values(want)), left) {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestKindsOfTheHostsContainerd leaves alone what a containerd of the host keeps itself.
func TestKindsOfTheHostsContainerd(t *testing.T) {
	p, _ := newParts(t)
	p.Rules = nil
	name := func(k gc.Kind) bool { return k.Name == "shims" || k.Name == "sockets of shims" }
	if slices.ContainsFunc(p.Kinds(), name) {
		t.Error("the host's shims are ours")
	}
	task := filepath.Join(p.State, "containerd/io.containerd.runtime.v2.task/ctrsnap/clost0000000")
	makeDirs(t, task)
	if got, err := p.allDirectories(); err != nil || len(got) > 0 {
		t.Errorf("the host's tasks are ours: %v, %v", got, err)
	}
	p.Address = filepath.Join(p.State, "c.sock")
	if got, err := p.allDirectories(); err != nil || !slices.Equal(got, []string{task}) {
		t.Errorf("tasks: %v, %v", got, err)
	}
	kinds := p.Kinds()
	if i := slices.IndexFunc(kinds, name); i != 1 || kinds[len(kinds)-1].Name != "sockets of shims" {
		t.Errorf("shims are at %d of %d kinds: they hold what comes next, and sockets are theirs", i, len(kinds))
	}
	if got, err := p.strayRules(t.Context()); got != nil || err != nil {
		t.Errorf("rules of a network without: %v, %v", got, err)
	}
}

// TestOwnersUnknown removes nothing when it is not known who has what.
func TestOwnersUnknown(t *testing.T) {
	p, w := newParts(t)
	p.Sandboxes = func(context.Context) ([]string, error) { return nil, errors.New("no answer") }
	for _, f := range gc.Remove(t.Context(), p.Kinds(), p.Owners) {
		if f.Kind == "containers" && (f.Err == nil || !strings.Contains(f.Err.Error(), "list sandboxes: no answer")) {
			t.Errorf("it says %v", f.Err)
		}
	}
	if len(w.removed) > 0 {
		t.Errorf("removed are %v", w.removed)
	}
}

func TestOwnerOf(t *testing.T) {
	for path, want := range map[string]string{
		"cabc123def45": "cabc123def45", "/run/clones/cabc123def45/s/x": "cabc123def45", "/logs/cabc123def45.log": "cabc123def45",
		"/builds/b00000000000": "b00000000000", "/task/s00000000000/rootfs": "s00000000000",
		"/run/clones/cabc123def456": "", "/run/clones/xabc123def45": "", "/run/Cabc123def45": "", "/logs/cabc123def45.txt": "", "": "",
	} {
		if got := OwnerOf(path); got != want {
			t.Errorf("%q is of %q, want %q", path, got, want)
		}
	}
}

// TestDirectories lists those with an id, and logs of clones but not of builds, which people read.
func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	d := Dirs{State: filepath.Join(dir, "state"), Storage: filepath.Join(dir, "storage")}
	want := []string{"state/builds/b00000000000", "state/clones/c00000000000", "storage/logs/c00000000000.log", "storage/spool/b00000000000"}
	for _, name := range append(want, "state/clones/lost+found", "storage/logs/b00000000000.log", "storage/other/c00000000000") {
		makeDirs(t, filepath.Join(dir, name))
	}
	got, err := d.directories(false)
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range got {
		got[i], _ = filepath.Rel(dir, path)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// TestMounts lists what is mounted for somebody, also where the state directory is named by a link.
func TestMounts(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.Symlink(dir, dir+"-link"); err != nil {
		t.Fatal(err)
	}
	var mounted []string
	for _, name := range []string{"clones/c00000000000", "other"} {
		path := filepath.Join(dir, name)
		makeDirs(t, path)
		if err := unix.Mount("none", path, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
		mounted = append(mounted, path)
	}
	if got, err := (Dirs{State: dir + "-link"}).mounts(); err != nil || !slices.Equal(got, mounted[:1]) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := (Dirs{State: dir + "-none"}).mounts(); err == nil {
		t.Errorf("of no directory: %v", got)
	}
}

// TestDeadSockets lists those that nobody answers at, and neither files nor one that is bound and may listen yet.
func TestDeadSockets(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "host") //nolint:usetesting // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := Dirs{State: dir}
	if got, err := d.deadSockets(); len(got) > 0 || err != nil {
		t.Errorf("of no directory: %v, %v", got, err)
	}
	at := func(name string) string { return filepath.Join(dir, "containerd/s", name) }
	makeDirs(t, at("dir"))
	bind := func(name string) int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: at(name)})
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	unix.Close(bind("dead"))
	bound := bind("bound")
	defer unix.Close(bound)
	alive, err := net.Listen("unix", at("alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if got, err := d.deadSockets(); err != nil || !slices.Equal(got, []string{at("dead")}) {
		t.Errorf("got %v, %v", got, err)
	}
}
