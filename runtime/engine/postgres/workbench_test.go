package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/base/host"
)

var (
	baseOnce sync.Once
	baseDir  string
	baseErr  error
)

// installed is the PostgreSQL that tests run: this host's, or one unpacked at
// the prefix that the environment names.
func installed(t *testing.T) installation {
	t.Helper()
	in, err := findInstallation(testPrefix())
	must(t, err)
	return in
}

func testPrefix() string { return os.Getenv("CTRSNAP_TEST_POSTGRES") }

// command runs a program of the installation on the host.
func (in installation) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(in.bin+"/"+program, args...)
	cmd.Env = os.Environ()
	if len(in.libraryPath) > 0 {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+strings.Join(in.libraryPath, ":"))
	}
	return cmd
}

// base makes the root filesystem of that PostgreSQL, once.
func base(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	baseOnce.Do(func() {
		//nolint:usetesting // it outlives the test: TestMain removes it
		if baseDir, baseErr = os.MkdirTemp("", "ctrsnap-postgres-base-"); baseErr == nil {
			baseErr = writeTree(baseDir)
		}
	})
	if baseErr != nil {
		t.Fatal(baseErr)
	}
	return baseDir
}

func writeTree(dir string, more ...snapshot.HostFile) error {
	tree, err := New().Host(context.Background(), testPrefix())
	if err != nil {
		return err
	}
	tree.Files = append(tree.Files, more...)
	plan, err := host.Find(context.Background(), tree, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	_, err = plan.Write(context.Background(), dir)
	return err
}

// bench is a Workbench that runs processes in namespaces of their own, on an
// overlay of base.
type bench struct {
	t            *testing.T
	dir          string
	log          bytes.Buffer
	logMu        sync.Mutex
	steps        []string
	warnings     []string
	busy         bool
	onHost       func(command string, env map[string]string) error
	running      *service
	clones       []*service
	socket, root string
}

var _ runtime.Workbench = (*bench)(nil)

func newBench(t *testing.T) *bench { return newBenchOn(t, base(t)) }

func newBenchOn(t *testing.T, lower string) *bench {
	t.Helper()
	w := &bench{t: t, dir: t.TempDir()}
	w.socket, w.root = filepath.Join(w.dir, "run"), filepath.Join(w.dir, "root")
	for _, d := range []string{"upper", "work", "root", "src", "run"} {
		must(t, os.Mkdir(filepath.Join(w.dir, d), 0o755))
	}
	for d := w.dir; d != os.TempDir(); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	must(t, unix.Mount("overlay", w.root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, w.dir, w.dir)))
	t.Cleanup(func() {
		if w.running != nil {
			w.running.Stop(context.Background(), syscall.SIGKILL)
			t.Error("the server was left running")
		}
		must(t, unix.Unmount(w.root, 0))
		if t.Failed() {
			t.Logf("build log:\n%s", w.text())
		}
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// put writes a source and returns its name.
func (w *bench) put(kind, name, text string) string {
	w.t.Helper()
	must(w.t, os.MkdirAll(filepath.Join(w.dir, "src", kind), 0o755))
	must(w.t, os.WriteFile(filepath.Join(w.dir, "src", kind, name), []byte(text), 0o644))
	return name
}

func (w *bench) text() string {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.String()
}

// Write is the build log.
func (w *bench) Write(p []byte) (int, error) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.log.Write(p)
}

func (w *bench) take(busy bool) {
	if busy && w.busy {
		w.t.Error("the root filesystem is in use already")
	}
	w.busy = busy
}

func (w *bench) Root(_ context.Context, fn func(dir string) error) error {
	w.take(true)
	defer w.take(false)
	return fn(w.root)
}

func (w *bench) SourceDir() string          { return filepath.Join(w.dir, "src") }
func (w *bench) Step(name string)           { w.steps = append(w.steps, name) }
func (w *bench) Progress(done, total int64) {}
func (w *bench) Warn(text string)           { w.warnings = append(w.warnings, text) }
func (w *bench) Log() io.Writer             { return w }

func (w *bench) container(p runtime.Process) container {
	if p.UID == 0 {
		must(w.t, os.Chmod(w.socket, 0o777))
	} else {
		must(w.t, os.Chown(w.socket, int(p.UID), int(p.GID)))
	}
	return container{Root: w.root, Socket: w.socket, Source: w.SourceDir(), Process: p}
}

func tee(w io.Writer, more ...io.Writer) io.Writer {
	all := []io.Writer{w}
	for _, m := range more {
		if m != nil {
			all = append(all, m)
		}
	}
	return io.MultiWriter(all...)
}

func (w *bench) Run(ctx context.Context, p runtime.Process, opts runtime.RunOpts) error {
	w.take(true)
	defer w.take(false)
	return w.run(p, opts.Stdio)
}

func (w *bench) run(p runtime.Process, stdio runtime.Stdio) error {
	var out tail
	cmd := w.container(p).command(runtime.Stdio{
		Stdin: stdio.Stdin, Stdout: tee(&out, w, stdio.Stdout), Stderr: tee(&out, w, stdio.Stderr),
	})
	return exitError(p, cmd.Run(), &out)
}

func exitError(p runtime.Process, err error, out *tail) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &runtime.ExitError{Command: p.Args[0], Code: exit.ExitCode(), Output: out.String()}
	}
	return err
}

func (w *bench) Host(_ context.Context, command string, env map[string]string) error {
	return w.onHost(command, env)
}

func (w *bench) Serve(_ context.Context, p runtime.Process) (runtime.Service, error) {
	w.take(true)
	s, err := w.serve(p)
	w.running = s
	return s, err
}

// serve starts a server on a loopback address of its own.
func (w *bench) serve(p runtime.Process) (*service, error) {
	s := &service{w: w, died: make(chan struct{}), p: p}
	s.addr = netip.AddrFrom4([4]byte{127, byte(rand.N(200) + 10), byte(rand.N(256)), byte(rand.N(250) + 1)})
	p.Args = append([]string(nil), p.Args...)
	for i, arg := range p.Args {
		if arg == "listen_addresses=*" {
			p.Args[i] = "listen_addresses=" + s.addr.String()
		}
	}
	s.cmd = w.container(p).command(runtime.Stdio{Stdout: tee(&s.out, w), Stderr: tee(&s.out, w)})
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = exitError(p, s.cmd.Wait(), &s.out)
		close(s.died)
	}()
	return s, nil
}

type service struct {
	w    *bench
	p    runtime.Process
	cmd  *exec.Cmd
	addr netip.Addr
	out  tail
	died chan struct{}
	err  error
}

func (s *service) Endpoint() runtime.Endpoint {
	return runtime.Endpoint{SocketDir: s.w.socket, Addr: s.addr, PID: s.cmd.Process.Pid}
}
func (s *service) Died() <-chan struct{} { return s.died }

func (s *service) Exec(_ context.Context, p runtime.Process, stdio runtime.Stdio) error {
	return s.w.run(p, stdio)
}

func (s *service) Stop(ctx context.Context, sig syscall.Signal) error {
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.died:
	case <-ctx.Done():
		_ = s.cmd.Process.Kill()
		<-s.died
	}
	if s.w.running == s {
		s.w.running = nil
		s.w.take(false)
	}
	return s.err
}

// build builds a golden and returns it.
func (w *bench) build(src runtime.Sources) (snapshot.Golden, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*time.Minute)
	defer cancel()
	if src.Golden == "" {
		src.Golden = "shop"
	}
	built, err := New().Build(ctx, w, src)
	return snapshot.Golden{Name: src.Golden, Version: 1, Description: snapshot.Description{State: built.State, EngineVersion: built.EngineVersion}}, err
}

// clone serves the golden and returns its endpoint and a way to ask it.
func (w *bench) clone(g snapshot.Golden, settings map[string]string) (runtime.Connection, func(sql string) string) {
	w.t.Helper()
	p, err := New().Server(g, settings)
	must(w.t, err)
	s, err := w.serve(p)
	must(w.t, err)
	w.clones = append(w.clones, s)
	w.t.Cleanup(func() { s.Stop(context.Background(), syscall.SIGKILL) })
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	must(w.t, New().Ready(ctx, g, s.Endpoint(), s.Died()))
	must(w.t, New().Query(ctx, g, s.Endpoint()))
	w.t.Logf("ready after %v", time.Since(start))
	c, err := New().Connect(g, s.Endpoint())
	must(w.t, err)
	return c, func(sql string) string { return psqlURL(w.t, c.URLs["tcp"], sql) }
}

// stopClones shuts down the servers of clones.
func (w *bench) stopClones() error {
	var errs []error
	for _, s := range w.clones {
		errs = append(errs, s.Stop(w.t.Context(), syscall.SIGINT))
	}
	w.clones = nil
	return errors.Join(errs...)
}

// psqlURL asks by psql on the host.
func psqlURL(t *testing.T, url, sql string) string {
	t.Helper()
	cmd := installed(t).command("psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", sql, err, out)
	}
	return strings.TrimSpace(string(out))
}
