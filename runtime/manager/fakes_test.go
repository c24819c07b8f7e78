package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// world is everything that a Manager works with, in memory. It survives Managers.
type world struct {
	dir      string
	pool     Pool
	parallel int
	without  error // why containers have no user namespace

	mu         sync.Mutex
	goldens    map[string][]snapshot.Golden // by name, the last one is current
	snapshots  map[string]bool
	networks   map[string]bool
	ports      map[string]netip.AddrPort // by id: where it is published
	containers map[string]*fakeTask
	secrets    map[string]string            // what each server was told of its password, by clone
	calls      map[string]int               // how often each operation was called
	before     func(op string, n int) error // called at each operation; an error fails it
	limits     Limits
	events     *event.Hub
	cgroups    string
	space      func() (patrol.Space, error)
	usage      map[string]int64          // bytes of disk, by clone; else 4096
	limited    map[string]runtime.Limits // what SetLimits was told
	ready      func(ctx context.Context, ep runtime.Endpoint, died <-chan struct{}) error
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return &world{
		dir:        t.TempDir(),
		goldens:    map[string][]snapshot.Golden{"shop": {fakeGolden("shop", 1), fakeGolden("shop", 2)}},
		snapshots:  map[string]bool{},
		networks:   map[string]bool{},
		ports:      map[string]netip.AddrPort{},
		containers: map[string]*fakeTask{},
		secrets:    map[string]string{},
		usage:      map[string]int64{},
		limited:    map[string]runtime.Limits{},
		events:     event.New(),
		calls:      map[string]int{},
	}
}

func fakeGolden(name string, version int) snapshot.Golden {
	return snapshot.Golden{Name: name, Version: version, Description: snapshot.Description{Engine: "fake"}, Access: snapshot.DefaultAccess}
}

func (w *world) options() Options {
	return Options{
		Store: (*fakeStore)(w), Runner: (*fakeRunner)(w), Network: (*fakeNetwork)(w), Ports: (*fakePorts)(w),
		Engines: runtime.EngineSet{"fake": &fakeEngine{w: w}},
		RunDir:  filepath.Join(w.dir, "run"), Memory: noMemory{}, LogDir: filepath.Join(w.dir, "logs"),
		Pool: w.pool, Parallel: w.parallel, Limits: w.limits, Events: w.events, CgroupRoot: w.cgroups, Space: w.space,
	}
}

// manager starts a Manager, as a daemon does, that is closed with the test.
func (w *world) manager(t testing.TB) (*Manager, Report) {
	t.Helper()
	m := New(w.options())
	t.Cleanup(func() { m.Close(context.Background()) })
	report, err := m.Recover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.Serving()
	return m, report
}

// at is called by each operation of the fakes.
func (w *world) at(ctx context.Context, op string) error {
	w.mu.Lock()
	w.calls[op]++
	n, before := w.calls[op], w.before
	w.mu.Unlock()
	if before != nil {
		if err := before(op, n); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// left lists what exists of clones.
func (w *world) left(t testing.TB) []string {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []string
	add := func(kind string, ids []string) {
		for _, id := range ids {
			left = append(left, kind+" "+id)
		}
	}
	add("snapshot", slices.Sorted(maps.Keys(w.snapshots)))
	add("network", slices.Sorted(maps.Keys(w.networks)))
	add("port", slices.Sorted(maps.Keys(w.ports)))
	add("container", slices.Sorted(maps.Keys(w.containers)))
	for _, dir := range []string{"run", "logs"} {
		entries, err := os.ReadDir(filepath.Join(w.dir, dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, dir+" "+e.Name())
		}
	}
	return left
}

func (w *world) task(id string) *fakeTask {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.containers[id]
}

type fakeStore world

func (s *fakeStore) Begin(context.Context, string, string) (snapshot.Build, error) {
	return nil, errdefs.ErrNotImplemented
}
func (s *fakeStore) Promote(context.Context, snapshot.Ref) error      { return nil }
func (s *fakeStore) VerifyDigest(context.Context, snapshot.Ref) error { return nil }
func (s *fakeStore) RemoveGolden(context.Context, snapshot.Ref) error { return nil }
func (s *fakeStore) SetAccess(context.Context, string, snapshot.Access) error {
	return errdefs.ErrNotImplemented
}

func (s *fakeStore) Goldens(context.Context) ([]snapshot.Golden, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []snapshot.Golden
	for _, versions := range s.goldens {
		for i, g := range versions {
			g.Current = i == len(versions)-1
			all = append(all, g)
		}
	}
	return all, nil
}

func (s *fakeStore) Golden(ctx context.Context, ref snapshot.Ref) (snapshot.Golden, error) {
	if err := (*world)(s).at(ctx, "store.Golden"); err != nil {
		return snapshot.Golden{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range slices.Backward(s.goldens[ref.Name]) {
		if ref.Version == 0 || ref.Version == g.Version {
			return g, nil
		}
	}
	return snapshot.Golden{}, fmt.Errorf("golden %s: %w", ref, errdefs.ErrNotFound)
}

func (s *fakeStore) Prepare(ctx context.Context, id string, _ snapshot.Golden) ([]mount.Mount, error) {
	if err := (*world)(s).at(ctx, "store.Prepare"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshots[id] = true
	return []mount.Mount{{Source: id}}, nil
}

func (s *fakeStore) Remove(ctx context.Context, id string) error {
	if err := (*world)(s).at(ctx, "store.Remove"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] != nil {
		return errors.New("snapshot removed below its container")
	}
	delete(s.snapshots, id)
	return nil
}

func (s *fakeStore) Clones(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.snapshots)), nil
}

func (s *fakeStore) Usage(_ context.Context, id string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, ok := s.usage[id]; ok {
		return n, nil
	}
	return 4096, nil
}

// uses says what a clone uses from now on.
func (w *world) uses(id string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.usage[id] = n
}

type fakeNetwork world

func (n *fakeNetwork) Add(ctx context.Context, id string, _ network.Options) (network.Namespace, error) {
	if err := (*world)(n).at(ctx, "network.Add"); err != nil {
		return network.Namespace{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.networks[id] = true
	return network.Namespace{ID: id, Path: "/netns/" + id, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}, nil
}

func (n *fakeNetwork) Assign(ctx context.Context, _ string, _ network.Options) error {
	return (*world)(n).at(ctx, "network.Assign")
}

func (n *fakeNetwork) Remove(ctx context.Context, id string) error {
	if err := (*world)(n).at(ctx, "network.Remove"); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.containers[id] != nil {
		return errors.New("network removed below its container")
	}
	delete(n.networks, id)
	return nil
}

func (n *fakeNetwork) Namespaces(context.Context) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Keys(n.networks)), nil
}

type fakePorts world

func (p *fakePorts) Publish(ctx context.Context, id, instead string, at []publish.Address, to netip.AddrPort) ([]netip.AddrPort, error) {
	if err := (*world)(p).at(ctx, "ports.Publish"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if delete(p.ports, instead); at[0].Port == 1 || to.Addr() != netip.MustParseAddr("10.0.0.7") {
		return nil, errdefs.ErrAlreadyExists
	}
	p.ports[id] = netip.AddrPortFrom(netip.IPv4Unspecified(), max(at[0].Port, 40000))
	return []netip.AddrPort{p.ports[id]}, nil
}

func (p *fakePorts) Unpublish(ctx context.Context, id string) error {
	if err := (*world)(p).at(ctx, "ports.Unpublish"); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.ports, id)
	return nil
}

func (p *fakePorts) Published(context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.ports)), nil
}

type fakeRunner world

func (r *fakeRunner) Create(ctx context.Context, c runtime.Container) (runtime.Task, error) {
	if err := (*world)(r).at(ctx, "runner.Create"); err != nil {
		return nil, err
	}
	rootfs, err := c.Rootfs(ctx)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(rootfs) != 1 || rootfs[0].Source != c.ID || c.NetNS != "/netns/"+c.ID || c.Snapshot != c.ID {
		return nil, fmt.Errorf("container with parts of others: %+v", c)
	}
	t := &fakeTask{w: (*world)(r), c: c, ended: make(chan struct{})}
	r.containers[c.ID] = t
	return t, nil
}

func (r *fakeRunner) Load(ctx context.Context, id string) (runtime.Task, error) {
	if err := (*world)(r).at(ctx, "runner.Load"); err != nil {
		return nil, err
	}
	t := (*world)(r).task(id)
	if t == nil || t.hasEnded() {
		return nil, errdefs.ErrNotFound
	}
	return t, nil
}

func (r *fakeRunner) Containers(_ context.Context, labels map[string]string) ([]runtime.ContainerInfo, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var infos []runtime.ContainerInfo
	for id, t := range r.containers {
		if hasLabels(t.c.Labels, labels) {
			infos = append(infos, runtime.ContainerInfo{ID: id, Labels: t.c.Labels, Record: t.c.Record})
		}
	}
	return infos, nil
}

func (r *fakeRunner) Isolation() error { return r.without }

func (r *fakeRunner) SetRecord(ctx context.Context, id string, record []byte) error {
	if err := (*world)(r).at(ctx, "runner.SetRecord"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[id].c.Record = record
	return nil
}

func (r *fakeRunner) SetLimits(ctx context.Context, id string, l runtime.Limits) error {
	if err := (*world)(r).at(ctx, "runner.SetLimits"); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limited[id] = l
	return nil
}

func (r *fakeRunner) Delete(ctx context.Context, id string) error {
	if err := (*world)(r).at(ctx, "runner.Delete"); err != nil {
		return err
	}
	r.mu.Lock()
	t := r.containers[id]
	delete(r.containers, id)
	r.mu.Unlock()
	if t != nil {
		t.end(137)
	}
	return nil
}

// fakeTask is a container with its task.
type fakeTask struct {
	w     *world
	c     runtime.Container
	once  sync.Once
	ended chan struct{}
	code  int
	exec  func(p runtime.Process, size <-chan runtime.WindowSize) int
}

func (t *fakeTask) ID() string { return t.c.ID }
func (t *fakeTask) PID() int   { return os.Getpid() }

func (t *fakeTask) Start(ctx context.Context) error { return t.w.at(ctx, "task.Start") }

func (t *fakeTask) Wait(ctx context.Context) (<-chan runtime.Exit, error) {
	if err := t.w.at(ctx, "task.Wait"); err != nil {
		return nil, err
	}
	exits := make(chan runtime.Exit, 1)
	go func() {
		select {
		case <-t.ended:
			exits <- runtime.Exit{Code: t.code, At: time.Now()}
		case <-ctx.Done():
			exits <- runtime.Exit{Err: ctx.Err()}
		}
	}()
	return exits, nil
}

func (t *fakeTask) Signal(_ context.Context, sig syscall.Signal) error {
	t.end(128 + int(sig))
	return nil
}

// Restart is another start of the server, unless it cannot be had.
func (t *fakeTask) Restart(ctx context.Context, sig syscall.Signal) error {
	if sig != syscall.SIGTERM {
		return fmt.Errorf("signal %d", sig)
	}
	return t.w.at(ctx, "task.Restart")
}

func (t *fakeTask) Exec(_ context.Context, p runtime.Process, _ runtime.Stdio, size <-chan runtime.WindowSize) (int, error) {
	return t.exec(p, size), nil
}

func (t *fakeTask) Memory(context.Context) (int64, error) { return 1 << 20, nil }

// end is the end of the server.
func (t *fakeTask) end(code int) {
	t.once.Do(func() {
		t.code = code
		close(t.ended)
	})
}

func (t *fakeTask) hasEnded() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

func (t *fakeTask) log(tb testing.TB, text string) {
	tb.Helper()
	f, err := os.OpenFile(t.c.LogPath, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		tb.Fatal(err)
	}
}

type fakeEngine struct {
	runtime.Engine
	w *world
}

func (e *fakeEngine) Server(_ snapshot.Golden, settings map[string]string) (runtime.Process, error) {
	if settings["bad"] != "" {
		return runtime.Process{}, errdefs.ErrInvalidArgument
	}
	return runtime.Process{
		Args: []string{"/server"}, Env: []string{"PATH=/bin", "A=server"}, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
	}, nil
}

func (e *fakeEngine) LimitConnections(n int) (map[string]string, error) {
	if n == 7 {
		return nil, errdefs.ErrInvalidArgument
	}
	return map[string]string{"connections": fmt.Sprint(n)}, nil
}

func (e *fakeEngine) Ready(ctx context.Context, _ snapshot.Golden, ep runtime.Endpoint, died <-chan struct{}) error {
	if err := e.w.at(ctx, "engine.Ready"); err != nil {
		return err
	}
	if e.w.ready != nil {
		return e.w.ready(ctx, ep, died)
	}
	return nil
}

func (e *fakeEngine) Query(ctx context.Context, _ snapshot.Golden, _ runtime.Endpoint) error {
	return e.w.at(ctx, "engine.Query")
}

func (*fakeEngine) SetsPasswords(snapshot.Golden) bool { return true }

func (e *fakeEngine) NewPassword() (runtime.Password, error) {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	e.w.calls["engine.NewPassword"]++
	text := fmt.Sprintf("secret%d", e.w.calls["engine.NewPassword"])
	return runtime.Password{Text: text, Verifier: "verifier of " + text}, nil
}

func (e *fakeEngine) OpenPassword(ctx context.Context, _ snapshot.Golden, ep runtime.Endpoint) (runtime.PasswordSession, error) {
	return &fakeSession{w: e.w, id: filepath.Base(filepath.Dir(ep.SocketDir))}, e.w.at(ctx, "engine.OpenPassword")
}

type fakeSession struct {
	w  *world
	id string
}

func (s *fakeSession) Set(ctx context.Context, p runtime.Password) error {
	if err := s.w.at(ctx, "session.Set"); err != nil {
		return err
	}
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.secrets[s.id] = p.Verifier
	return nil
}

func (s *fakeSession) Close() error { return s.w.at(context.Background(), "session.Close") }

func (e *fakeEngine) Settings(_ snapshot.Golden, settings map[string]string) ([]runtime.Setting, error) {
	var list []runtime.Setting
	for k, v := range settings {
		list = append(list, runtime.Setting{Name: k, Value: v, From: runtime.SettingClone, Note: "n"})
	}
	return list, nil
}

func (e *fakeEngine) Connect(_ snapshot.Golden, ep runtime.Endpoint) (runtime.Connection, error) {
	if err := e.w.at(context.Background(), "engine.Connect"); err != nil {
		return runtime.Connection{}, err
	}
	password := "p"
	if ep.Password != "" {
		password = ep.Password
	}
	return runtime.Connection{
		URLs: map[string]string{"tcp": "fake://" + ep.Addr.String(), "socket": "fake://" + ep.SocketDir},
		Host: ep.Addr.String(), Port: 1, Socket: "/run/x", User: "u", Password: password, Database: "d",
		Env: map[string]map[string]string{"tcp": {"FAKEHOST": ep.Addr.String(), "FAKEPASSWORD": password}},
	}, nil
}

func (e *fakeEngine) Client(_ snapshot.Golden, _ string, args []string) (runtime.Process, error) {
	return runtime.Process{Args: append([]string{"/client"}, args...), Env: []string{"C=1"}}, nil
}

// caller is who runs the test.
// noMemory leaves directories as they are.
type noMemory struct{}

func (noMemory) Mount(string, string) error { return nil }
func (noMemory) Unmount(string) error       { return nil }

var caller = access.User("me", os.Getuid(), os.Getgid())

// create makes clones that the test relies on.
func create(t testing.TB, m *Manager, req api.CloneRequest) api.CloneResponse {
	t.Helper()
	if req.Golden == "" {
		req.Golden = "shop"
	}
	resp, err := m.Create(t.Context(), caller, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// ids returns the ids of the clones that are listed.
func ids(t testing.TB, m *Manager) []string {
	t.Helper()
	list, err := m.List(context.Background(), access.Daemon, nil)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids
}

func drain(t testing.TB, m *Manager) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func isRoot() bool { return os.Getuid() == 0 }
