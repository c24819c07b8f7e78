package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// world is all that a Builder works with, in memory. It knows what exists and
// can make any one call fail.
// serverProgram serves until it gets a signal.
// left lists what exists that should not when no build is under way.
// request is a build request with its parts and what happened to it.
// owned gives a golden that is nobody's to whoever calls in these tests.
func owned(g snapshot.Golden) snapshot.Golden {
	if g.Access == (snapshot.Access{}) {
		g.Access = snapshot.Access{Owner: 1000, Mode: 0o644}
	}
	return g
}

type fakeStore struct{ w *world }

func (s fakeStore) Begin(ctx context.Context, id, parent string) (snapshot.Build, error) {
	if err := errors.Join(s.w.at("store.Begin"), ctx.Err()); err != nil {
		return nil, err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.open[id] = true
	return &fakeBuild{w: s.w, id: id, parent: parent}, nil
}

func (s fakeStore) Golden(_ context.Context, ref snapshot.Ref) (snapshot.Golden, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, g := range s.w.goldens {
		if g.Name == ref.Name && (g.Version == ref.Version || ref.Version == 0 && g.Current) {
			return owned(g), nil
		}
	}
	return snapshot.Golden{}, fmt.Errorf("golden %s: %w", ref, errdefs.ErrNotFound)
}

func (s fakeStore) Goldens(context.Context) ([]snapshot.Golden, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	all := slices.Clone(s.w.goldens)
	for i := range all {
		all[i] = owned(all[i])
	}
	return all, nil
}

func (s fakeStore) Promote(_ context.Context, ref snapshot.Ref) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if !slices.ContainsFunc(s.w.goldens, func(g snapshot.Golden) bool { return g.Ref() == ref }) {
		return errdefs.ErrNotFound
	}
	for i := range s.w.goldens {
		if g := &s.w.goldens[i]; g.Name == ref.Name {
			g.Current = g.Version == ref.Version
		}
	}
	return nil
}

func (s fakeStore) SetAccess(_ context.Context, name string, a snapshot.Access) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for i, g := range s.w.goldens {
		if g.Name == name {
			s.w.goldens[i].Access = a
		}
	}
	return nil
}

func (s fakeStore) VerifyDigest(context.Context, snapshot.Ref) error { return nil }

func (s fakeStore) RemoveGolden(_ context.Context, ref snapshot.Ref) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.goldens = slices.DeleteFunc(s.w.goldens, func(g snapshot.Golden) bool {
		return g.Name == ref.Name && (ref.Version == 0 || g.Version == ref.Version)
	})
	return nil
}

func (fakeStore) Prepare(context.Context, string, snapshot.Golden) ([]mount.Mount, error) {
	panic("no clone here")
}
func (fakeStore) Remove(context.Context, string) error         { panic("no clone here") }
func (fakeStore) Clones(context.Context) ([]string, error)     { panic("no clone here") }
func (fakeStore) Usage(context.Context, string) (int64, error) { panic("no clone here") }

type fakeBuild struct {
	w          *world
	id, parent string
}

func (b *fakeBuild) Mounts() []mount.Mount { return []mount.Mount{{Type: "fake", Source: b.id}} }

func (b *fakeBuild) Commit(ctx context.Context, g snapshot.Golden) (snapshot.Golden, error) {
	if err := errors.Join(b.w.at("store.Commit"), ctx.Err()); err != nil {
		return g, err
	}
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	if len(b.w.containers)+len(b.w.mounted) > 0 {
		b.w.t.Errorf("commit while containers=%v mounted=%v", b.w.containers, b.w.mounted)
	}
	g.Snapshot, g.Current, g.Version = "committed-"+b.id, true, 1
	for i := range b.w.goldens {
		if b.w.goldens[i].Name == g.Name {
			b.w.goldens[i].Current = false
			g.Version, g.Access = max(g.Version, b.w.goldens[i].Version+1), b.w.goldens[i].Access
		}
	}
	b.w.goldens = append(b.w.goldens, g)
	return g, nil
}

func (b *fakeBuild) Close(context.Context) error {
	b.w.mu.Lock()
	delete(b.w.open, b.id)
	b.w.mu.Unlock()
	return b.w.at("store.Close")
}

// --- bases

type fakeBases struct{ w *world }

func (b fakeBases) Host(ctx context.Context, tree snapshot.HostTree) (snapshot.Base, error) {
	return snapshot.Base{Kind: "host", Ref: tree.Name, Snapshot: "host"}, errors.Join(b.w.at("bases.Host"), ctx.Err())
}

func (b fakeBases) Pull(ctx context.Context, ref string, progress func(done, total int64)) (snapshot.Base, error) {
	for i := range int64(1000) {
		progress(i+1, 1000)
	}
	return snapshot.Base{Kind: "image", Ref: ref, Snapshot: "image"}, errors.Join(b.w.at("bases.Pull"), ctx.Err())
}

func (b fakeBases) Import(ctx context.Context, r io.Reader, name string, _ func(done, total int64)) (snapshot.Base, error) {
	data, err := io.ReadAll(r)
	if string(data) != "image" {
		err = errors.Join(err, fmt.Errorf("not an image: %w", errdefs.ErrInvalidArgument))
	}
	return snapshot.Base{Kind: "archive", Ref: name, Snapshot: "archive"}, errors.Join(b.w.at("bases.Import"), err, ctx.Err())
}

// --- network

type fakeNetwork struct{ w *world }

func (n fakeNetwork) Add(ctx context.Context, id string, _ network.Options) (network.Namespace, error) {
	if err := errors.Join(n.w.at("network.Add"), ctx.Err()); err != nil {
		return network.Namespace{}, err
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if n.w.netns[id] {
		return network.Namespace{}, errdefs.ErrAlreadyExists
	}
	n.w.netns[id] = true
	return network.Namespace{ID: id, Path: "/netns/" + id, Addrs: []netip.Addr{netip.MustParseAddr("10.1.2.3")}}, nil
}

func (n fakeNetwork) Assign(_ context.Context, _ string, opts network.Options) error {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	n.w.assigned = append(n.w.assigned, opts)
	return nil
}

func (n fakeNetwork) Remove(ctx context.Context, id string) error {
	if err := errors.Join(n.w.at("network.Remove"), ctx.Err()); err != nil {
		return err
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	delete(n.w.netns, id)
	return nil
}

func (n fakeNetwork) Namespaces(context.Context) ([]string, error) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	var ids []string
	for id := range n.w.netns {
		ids = append(ids, id)
	}
	return ids, nil
}

// --- runner

type fakeRunner struct{ w *world }

func (r fakeRunner) Create(ctx context.Context, c runtime.Container) (runtime.Task, error) {
	if err := errors.Join(r.w.at("runner.Create "+c.Process.Args[0]), ctx.Err()); err != nil {
		return nil, err
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if len(r.w.mounted) > 0 || r.w.containers[c.ID] != nil {
		r.w.t.Errorf("create container %s: mounted=%v containers=%v", c.ID, r.w.mounted, r.w.containers)
	}
	t := &fakeTask{w: r.w, c: c, exit: make(chan runtime.Exit, 1), sig: make(chan syscall.Signal, 1), kill: make(chan struct{}), ended: make(chan struct{})}
	r.w.containers[c.ID] = t
	return t, nil
}

func (fakeRunner) Load(context.Context, string) (runtime.Task, error) { panic("not used") }

func (r fakeRunner) Containers(_ context.Context, labels map[string]string) ([]runtime.ContainerInfo, error) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	var list []runtime.ContainerInfo
	for id, t := range r.w.containers {
		if t.c.Labels[snapshot.LabelKind] == labels[snapshot.LabelKind] {
			list = append(list, runtime.ContainerInfo{ID: id, Labels: t.c.Labels})
		}
	}
	return list, nil
}

func (r fakeRunner) Isolation() error { return r.w.without }

func (fakeRunner) SetRecord(context.Context, string, []byte) error { panic("not used") }

func (r fakeRunner) Delete(ctx context.Context, id string) error {
	if err := errors.Join(r.w.at("runner.Delete"), ctx.Err()); err != nil {
		return err
	}
	r.w.mu.Lock()
	t := r.w.containers[id]
	delete(r.w.containers, id)
	r.w.mu.Unlock()
	if t != nil {
		close(t.kill)
		if t.started {
			<-t.ended
		}
	}
	return nil
}

type fakeTask struct {
	w       *world
	c       runtime.Container
	exit    chan runtime.Exit
	sig     chan syscall.Signal
	kill    chan struct{}
	ended   chan struct{}
	started bool
}

func (t *fakeTask) ID() string { return t.c.ID }
func (t *fakeTask) PID() int   { return 4242 }

func (t *fakeTask) Start(ctx context.Context) error {
	if err := errors.Join(t.w.at("task.Start"), ctx.Err()); err != nil {
		return err
	}
	program := t.w.programs[t.c.Process.Args[0]]
	t.started = true
	go func() {
		code := program(fakeIO{c: t.c, p: t.c.Process, out: t.c.Stdio.Stdout, err: t.c.Stdio.Stderr, sig: t.sig, kill: t.kill})
		t.exit <- runtime.Exit{Code: code}
		close(t.ended)
	}()
	return nil
}

func (t *fakeTask) Wait(ctx context.Context) (<-chan runtime.Exit, error) {
	return t.exit, errors.Join(t.w.at("task.Wait"), ctx.Err())
}

func (t *fakeTask) Signal(ctx context.Context, sig syscall.Signal) error {
	if err := errors.Join(t.w.at("task.Signal"), ctx.Err()); err != nil {
		return err
	}
	select {
	case <-t.ended:
		return errdefs.ErrNotFound
	case t.sig <- sig:
		return nil
	}
}

func (t *fakeTask) Exec(ctx context.Context, p runtime.Process, stdio runtime.Stdio, _ <-chan runtime.WindowSize) (int, error) {
	if err := errors.Join(t.w.at("task.Exec"), ctx.Err()); err != nil {
		return 0, err
	}
	return t.w.programs[p.Args[0]](fakeIO{c: t.c, p: p, out: stdio.Stdout, err: stdio.Stderr, kill: t.kill}), nil
}

func (*fakeTask) Memory(context.Context) (int64, error) { panic("not used") }

// --- engine

type fakeEngine struct {
	w    *world
	name string
	runtime.Engine
}

func (e fakeEngine) Name() string { return e.name }

func (fakeEngine) Describe() runtime.Description {
	return runtime.Description{Scripts: []string{".sql", ".sh"}, DumpDir: "toc.dat"}
}

func (e fakeEngine) Host(ctx context.Context, prefix string) (snapshot.HostTree, error) {
	return snapshot.HostTree{Name: strings.TrimSpace(e.name + " 15.18 " + prefix)}, errors.Join(e.w.at("engine.Host"), ctx.Err())
}

func (e fakeEngine) Build(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (runtime.Built, error) {
	return e.w.engine(ctx, wb, src)
}

// everything is an engine's build that uses each method of a Workbench.
