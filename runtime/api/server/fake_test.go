package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// fake is a daemon without databases. Fields that are functions stand in for
// what a test is about.
type fake struct {
	mu     sync.Mutex
	clones map[string]api.Clone
	leases map[string]bool
	caller access.Caller

	strangers atomic.Int32 // calls whose caller nobody knows

	create func(ctx context.Context) error
	hold   func(ctx context.Context, lease string, held func()) error
	logs   func(ctx context.Context, w io.Writer) error
	exec   func(ctx context.Context, req api.ExecRequest, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error)
	build  func(ctx context.Context, req api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error)
	answer func(caller access.Caller, build string, r api.HostResult) error
}

// from takes note of a caller that a handler has not passed on.
func (f *fake) from(caller access.Caller) {
	if !caller.Known() {
		f.strangers.Add(1)
	}
}

func notFound(kind, name string) error {
	return snapshot.WithHint(fmt.Errorf("%s %s: %w", kind, name, errdefs.ErrNotFound), "list them by ctrsnap ls")
}

type fakeClones struct{ *fake }

func (f fakeClones) Create(ctx context.Context, caller access.Caller, req api.CloneRequest) (api.CloneResponse, error) {
	f.from(caller)
	if f.create != nil {
		if err := f.create(ctx); err != nil {
			return api.CloneResponse{}, err
		}
	}
	if req.Golden != "shop" {
		return api.CloneResponse{}, notFound("golden", req.Golden)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.caller = caller
	var resp api.CloneResponse
	for range max(1, req.Count) {
		c := api.Clone{ID: fmt.Sprintf("c%011d", len(f.clones)), Name: req.Name, Golden: req.Golden, Version: 1, State: api.StateRunning, Labels: req.Labels}
		f.clones[c.ID] = c
		resp.Clones = append(resp.Clones, c)
	}
	if req.Lease == api.LeaseConnection {
		resp.LeaseID = "l1"
		f.leases["l1"] = true
	}
	return resp, nil
}

func (f fakeClones) Get(_ context.Context, caller access.Caller, id string) (api.Clone, error) {
	f.from(caller)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.clones {
		if c.ID == id || c.Name == id {
			return c, nil
		}
	}
	return api.Clone{}, notFound("clone", id)
}

func (f fakeClones) List(_ context.Context, caller access.Caller, labels map[string]string) ([]api.Clone, error) {
	f.from(caller)
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []api.Clone
	for _, id := range slices.Sorted(maps.Keys(f.clones)) {
		has := true
		for k, v := range labels {
			has = has && f.clones[id].Labels[k] == v
		}
		if has {
			out = append(out, f.clones[id])
		}
	}
	return out, nil
}

func (f fakeClones) Remove(ctx context.Context, caller access.Caller, id string, _ bool) error {
	f.from(caller)
	c, err := f.Get(ctx, caller, id)
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.clones, c.ID)
	return err
}

func (f fakeClones) Restart(_ context.Context, _ access.Caller, id string) (api.Clone, error) {
	return api.Clone{ID: id}, nil
}

func (f fakeClones) Extend(ctx context.Context, caller access.Caller, id string, req api.ExtendRequest) (api.Clone, error) {
	f.from(caller)
	c, err := f.Get(ctx, caller, id)
	end := time.Unix(0, 0).Add(time.Duration(req.TTL))
	c.ExpiresAt = &end
	return c, err
}

func (f fakeClones) Hold(ctx context.Context, caller access.Caller, lease string, held func()) error {
	f.from(caller)
	if f.hold != nil {
		return f.hold(ctx, lease, held)
	}
	f.mu.Lock()
	known := f.leases[lease]
	f.mu.Unlock()
	if !known {
		return notFound("lease", lease)
	}
	held()
	<-ctx.Done()
	return nil
}

func (f fakeClones) Logs(ctx context.Context, caller access.Caller, id string, tail int, follow bool, w io.Writer) error {
	f.from(caller)
	if _, err := f.Get(ctx, caller, id); err != nil {
		return err
	}
	if f.logs != nil {
		return f.logs(ctx, w)
	}
	_, err := fmt.Fprintf(w, "tail=%d follow=%t\n", tail, follow)
	return err
}

func (f fakeClones) Exec(ctx context.Context, caller access.Caller, id string, req api.ExecRequest, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error) {
	f.from(caller)
	if _, err := f.Get(ctx, caller, id); err != nil {
		return 0, err
	}
	return f.exec(ctx, req, stdio, size)
}

func (f fakeClones) Client(ctx context.Context, caller access.Caller, id string, args []string) (api.ClientRequest, error) {
	f.from(caller)
	_, err := f.Get(ctx, caller, id)
	return api.ClientRequest{Args: append([]string{"psql"}, args...)}, err
}

type fakePools struct{ *fake }

func (f fakePools) Pools(_ context.Context, caller access.Caller) ([]api.Pool, error) {
	f.from(caller)
	return nil, nil
}

func (f fakePools) SetPool(_ context.Context, caller access.Caller, golden string, req api.PoolRequest) (api.Pool, error) {
	f.from(caller)
	if golden != "shop" {
		return api.Pool{}, notFound("golden", golden)
	}
	return api.Pool{Golden: golden, Version: 1, Size: req.Size, Auto: req.Auto}, nil
}

type fakeGoldens struct{ *fake }

func (f fakeGoldens) golden(ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	if r.Name != "shop" {
		return api.Golden{}, notFound("golden", ref)
	}
	return api.Golden{Name: r.Name, Version: max(1, r.Version)}, nil
}

func (f fakeGoldens) List(_ context.Context, caller access.Caller, name string) ([]api.Golden, error) {
	f.from(caller)
	if name != "" && name != "shop" {
		return nil, nil
	}
	return []api.Golden{{Name: "shop", Version: 1}, {Name: "shop", Version: 2, Current: true}}, nil
}

func (f fakeGoldens) Get(_ context.Context, caller access.Caller, ref string) (api.Golden, error) {
	f.from(caller)
	return f.golden(ref)
}
func (f fakeGoldens) Promote(_ context.Context, caller access.Caller, ref string) (api.Golden, error) {
	f.from(caller)
	return f.golden(ref)
}
func (f fakeGoldens) Verify(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	f.from(caller)
	return f.Get(ctx, caller, ref)
}

func (f fakeGoldens) Rollback(_ context.Context, caller access.Caller, name string) (api.Golden, error) {
	f.from(caller)
	return f.golden(name)
}

func (f fakeGoldens) SetAccess(_ context.Context, caller access.Caller, name string, req api.AccessRequest) (api.Golden, error) {
	f.from(caller)
	g, err := f.golden(name)
	g.Owner, g.Group, g.Mode = req.Owner, req.Group, req.Mode
	return g, err
}

func (f fakeGoldens) Prune(_ context.Context, caller access.Caller, req api.PruneRequest) ([]api.Golden, error) {
	f.from(caller)
	g, err := f.golden(cmp.Or(req.Name, "shop"))
	return []api.Golden{g}, err
}

func (f fakeGoldens) Remove(_ context.Context, caller access.Caller, ref string) error {
	f.from(caller)
	if strings.HasPrefix(ref, "shop") {
		return fmt.Errorf("golden %s has clones: %w", ref, errdefs.ErrFailedPrecondition)
	}
	_, err := f.golden(ref)
	return err
}

func (f fakeGoldens) Build(ctx context.Context, caller access.Caller, req api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
	f.from(caller)
	return f.build(ctx, req, next, events)
}

func (f fakeGoldens) Answer(_ context.Context, caller access.Caller, build string, r api.HostResult) error {
	f.from(caller)
	return f.answer(caller, build, r)
}

type fakeHost struct{ *fake }

func (fakeHost) Version() api.Version { return api.Version{Version: "1.2.3"} }
func (f fakeHost) Fix(_ context.Context, caller access.Caller) (api.Doctor, error) {
	f.from(caller)
	return api.Doctor{Checks: []api.Check{{Name: "x", Status: "ok"}}}, nil
}

func (f fakeHost) Doctor(_ context.Context, caller access.Caller) (api.Doctor, error) {
	f.from(caller)
	return api.Doctor{}, nil
}
func (f fakeHost) GC(_ context.Context, caller access.Caller, remove bool) (api.GC, error) {
	f.from(caller)
	return api.GC{Removed: remove, Kinds: []api.GCKind{{Kind: "mounts", Used: 1, Orphans: []string{}}}}, nil
}

func newFake() *fake {
	return &fake{clones: map[string]api.Clone{}, leases: map[string]bool{}}
}

// daemon is a served fake.
type daemon struct {
	*fake
	*Server
	socket string
	log    *syncBuffer
	stop   func() // stops serving, and waits
}

// start serves f at a socket until the test ends or stop is called.
func (f *fake) start(t testing.TB, socket string) *daemon {
	t.Helper()
	d := &daemon{fake: f, socket: socket, log: &syncBuffer{}}
	d.Server = New(Options{
		Clones: fakeClones{f}, Goldens: fakeGoldens{f}, Pools: fakePools{f}, Host: fakeHost{f}, Events: event.New(),
		Logger: slog.New(slog.NewTextHandler(d.log, nil)),
	})
	d.watch = 10 * time.Millisecond
	d.keepAlive = 10 * time.Millisecond
	l, err := Listen(socket, "ctrsnap-no-such-group", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Serve(ctx, l) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
		if n := f.strangers.Load(); n > 0 {
			t.Errorf("%d calls without the caller", n)
		}
	})
	t.Cleanup(d.stop)
	return d
}

func serve(t testing.TB, f *fake) (*daemon, *client.Client) {
	t.Helper()
	d := f.start(t, filepath.Join(t.TempDir(), "s"))
	return d, dial(t, d.socket)
}

func dial(t testing.TB, socket string) *client.Client {
	t.Helper()
	c, err := client.New("unix://" + socket)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testContext ends when the test hangs.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// raw sends request as it is and returns all that comes back.
func raw(t *testing.T, socket, request string) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	// A server that does not take the whole body resets the connection, after
	// its answer.
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read answer: %v after %q", err, b)
	}
	return string(b)
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
