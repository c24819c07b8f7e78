package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/goldens"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

var errBoom = errors.New("boom")

type world struct {
	t *testing.T
	*Builder
	without error // why containers have no user namespace

	mu         sync.Mutex
	assigned   []network.Options
	calls      []string
	onCall     func(n int, call string) error
	goldens    []snapshot.Golden
	open       map[string]bool // builds begun and not closed
	containers map[string]*fakeTask
	netns      map[string]bool
	mounted    map[string]bool

	// programs are what containers can run, by Args[0]. It returns the exit
	// code. sig takes signals.
	programs map[string]func(io fakeIO) int
	engine   func(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (runtime.Built, error)
}

type fakeIO struct {
	c    runtime.Container
	p    runtime.Process
	out  io.Writer
	err  io.Writer
	sig  <-chan syscall.Signal
	kill <-chan struct{}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		t: t, open: map[string]bool{}, containers: map[string]*fakeTask{},
		netns: map[string]bool{}, mounted: map[string]bool{},
		onCall: func(int, string) error { return nil },
		engine: func(context.Context, runtime.Workbench, runtime.Sources) (runtime.Built, error) {
			return runtime.Built{EngineVersion: "15.18", State: []byte(`{"password":"secret"}`)}, nil
		},
	}
	w.programs = map[string]func(fakeIO) int{
		"true":   func(fakeIO) int { return 0 },
		"echo":   func(f fakeIO) int { _, _ = fmt.Fprintln(f.out, strings.Join(f.p.Args[1:], " ")); return 0 },
		"fail":   func(f fakeIO) int { _, _ = fmt.Fprint(f.err, "schema.sql:3: ERROR: no such table\nlast"); return 3 },
		"server": serverProgram,
	}
	w.Builder = New(Options{
		Store: fakeStore{w}, Goldens: goldens.New(goldens.Options{Store: fakeStore{w}, Clones: noClones{}, Log: slog.New(slog.DiscardHandler)}), Bases: fakeBases{w}, Runner: fakeRunner{w}, Network: fakeNetwork{w},
		Engines:  runtime.EngineSet{"postgres": fakeEngine{w: w, name: "postgres"}, "redis": fakeEngine{w: w, name: "redis"}},
		SpoolDir: filepath.Join(dir, "spool"), RunDir: filepath.Join(dir, "run"), Memory: noMemory{}, LogDir: filepath.Join(dir, "logs"),
		Logger: slog.New(slog.DiscardHandler),
	})
	w.fail = w.at
	w.mount = func(m []mount.Mount, target string) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.mounted)+len(w.containers) > 0 {
			w.t.Errorf("mount %s while mounted=%v containers=%v", target, w.mounted, w.containers)
		}
		w.mounted[target] = true
		return w.called("mount")
	}
	w.unmount = func(target string, flags int) error {
		if err := w.at(fmt.Sprintf("unmount %d", flags)); err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.mounted, target)
		// Nothing is mounted: what was written is below the mount point.
		list, _ := os.ReadDir(target)
		for _, e := range list {
			_ = os.Remove(filepath.Join(target, e.Name()))
		}
		return nil
	}
	return w
}

// noClones are those of goldens that have none.
type noClones struct{}

func (noClones) Live(snapshot.Ref) int             { return 0 }
func (noClones) RefreshPool(context.Context) error { return nil }

func (noClones) SuspendPool(context.Context, snapshot.Ref) (resume func(), err error) {
	return func() {}, nil
}

func serverProgram(f fakeIO) int {
	_, _ = fmt.Fprintln(f.err, "server ready")
	select {
	case <-f.sig:
		return 0
	case <-f.kill:
		return 137
	}
}

func (w *world) at(call string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.called(call)
}

func (w *world) called(call string) error {
	w.calls = append(w.calls, call)
	return w.onCall(len(w.calls), call)
}

func (w *world) left() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []string
	for id := range w.open {
		left = append(left, "build "+id)
	}
	for id := range w.containers {
		left = append(left, "container "+id)
	}
	for id := range w.netns {
		left = append(left, "netns "+id)
	}
	for dir := range w.mounted {
		left = append(left, "mount "+dir)
	}
	for _, dir := range []string{w.SpoolDir, w.RunDir} {
		list, _ := os.ReadDir(dir)
		for _, e := range list {
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	if len(w.jobs) > 0 || w.locks.Held() > 0 || busy(w.turns) > 0 {
		left = append(left, fmt.Sprintf("jobs %d, locks %d, gate %d", len(w.jobs), w.locks.Held(), busy(w.turns)))
	}
	return left
}

func (w *world) checkNothingLeft() {
	w.t.Helper()
	if left := w.left(); len(left) > 0 {
		w.t.Errorf("left behind: %q", left)
	}
}

type request struct {
	api.BuildRequest
	parts  []api.Part
	onPart func()
	on     func(api.BuildEvent)

	mu     sync.Mutex
	events []api.BuildEvent
}

func part(kind, name, content string) api.Part {
	return api.Part{Kind: kind, Name: name, Reader: strings.NewReader(content)}
}

func (r *request) next() (api.Part, error) {
	if r.onPart != nil {
		r.onPart()
	}
	if len(r.parts) == 0 {
		return api.Part{}, io.EOF
	}
	p := r.parts[0]
	r.parts = r.parts[1:]
	return p, nil
}

func (r *request) event(e api.BuildEvent) {
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	if r.on != nil {
		r.on(e)
	}
}

func (r *request) steps() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var steps []string
	for _, e := range r.events {
		if e.Type == api.EventStep {
			steps = append(steps, e.Step)
		}
	}
	return steps
}

// ada is who builds, where a test does not say.
var ada = access.User("ada", 1000, 1000)

func (w *world) run(ctx context.Context, r *request) (api.Golden, bool, error) {
	return w.Build(ctx, ada, r.BuildRequest, r.next, r.event)
}

func shop(parts ...api.Part) *request {
	if len(parts) == 0 {
		parts = []api.Part{part("init", "a.sql", "select 1")}
	}
	return &request{BuildRequest: api.BuildRequest{Name: "shop"}, parts: parts}
}

// --- store

func everything(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (b runtime.Built, err error) {
	wb.Step("lay out")
	if err := wb.Root(ctx, func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600) }); err != nil {
		return b, err
	}
	if err := os.WriteFile(filepath.Join(wb.SourceDir(), "made-by-engine"), nil, 0o600); err != nil {
		return b, err
	}
	if err := wb.Run(ctx, runtime.Process{Args: []string{"echo", "hello"}, UID: uint32(os.Getuid())}, runtime.RunOpts{Reach: netip.MustParseAddr("192.0.2.9")}); err != nil {
		return b, err
	}
	wb.Step("serve")
	svc, err := wb.Serve(ctx, runtime.Process{Args: []string{"server"}})
	if err != nil {
		return b, err
	}
	defer func() {
		stop, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		err = errors.Join(err, svc.Stop(stop, syscall.SIGTERM))
	}()
	if err := svc.Exec(ctx, runtime.Process{Args: []string{"true"}}, runtime.Stdio{}); err != nil {
		return b, err
	}
	for _, command := range src.Exec {
		if err := wb.Host(ctx, command, map[string]string{"DATABASE_URL": "postgres://x"}); err != nil {
			return b, err
		}
	}
	wb.Warn("0001-b.sql has no end")
	_, _ = fmt.Fprintln(wb.Log(), "vacuumed")
	wb.Progress(1, 2)
	return runtime.Built{EngineVersion: "15.18", State: []byte(`{"password":"secret"}`)}, nil
}

// noMemory leaves directories as they are.
type noMemory struct{}

func (noMemory) Mount(string, string) error { return nil }
func (noMemory) Unmount(string) error       { return nil }

// busy returns how many builds have or await a turn.
func busy(q *pool.Queue) int {
	in, waiting := q.Busy("")
	return in + waiting
}
