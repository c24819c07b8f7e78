package launch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
)

// TestMain compiles the helper, which a tree has only once it is built.
func TestMain(m *testing.M) {
	if out, err := exec.Command("make", "-C", "../..", "init").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "compile the helper: %v\n%s", err, out)
		os.Exit(1)
	}
	initProgram = func() ([]byte, error) { return os.ReadFile("helper/" + InitName + "-" + runtime.GOARCH) }
	os.Exit(m.Run())
}

// start launches a container that runs until the test ends, at the latest.
func (w *world) start(t *testing.T, s *specs.Spec) (*Process, Config) {
	t.Helper()
	c := w.config(t, s)
	p, _, err := w.launcher.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL) // it may have ended
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
		p.Close()
	})
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p, c
}

// join runs a program in a container and returns its exit status.
func (w *world) join(t *testing.T, p *Process, c Config, args ...string) (int, error) {
	t.Helper()
	joined, _, err := w.launcher.Exec(p, Join{ID: c.ID, Process: testSpec(args...).Process, Filter: c.Filter, Cgroup: c.Cgroup})
	if err != nil {
		return 0, err
	}
	defer joined.Close()
	e, err := joined.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return e.Code, nil
}

// TestNoMemory has children killed for want of memory before they run their programs, and joins a container that has all it may:
// who dies is in that container, and neither this process, which launches them, nor what runs in another.
func TestNoMemory(t *testing.T) {
	w := newWorld(t)
	other, _ := w.start(t, testSpec("sleep", "100"))
	limited := func(limit int64, args ...string) *specs.Spec {
		s := testSpec(args...)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
		return s
	}
	for _, kib := range []int64{4, 16, 64} {
		p, _, err := w.launcher.Create(w.config(t, limited(kib<<10, "sleep", "100")))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(); err == nil || !strings.Contains(err.Error(), "memory") {
			t.Errorf("%d KiB: started: %v", kib, err)
		}
		if _, err := p.Wait(); err != nil {
			t.Error(err)
		}
		p.Close()
	}
	full, c := w.start(t, limited(64<<20, "sleep", "100"))
	limit := memoryOf(t, c.Cgroup) + 8<<10
	if err := c.Cgroup.Update(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}); err != nil {
		t.Fatal(err)
	}
	// Either who joins is killed, or the container with it.
	code, err := w.join(t, full, c, "head", "-c", "1M", "/dev/zero")
	if killed := err != nil && strings.Contains(err.Error(), "memory"); !killed && code != 128+int(unix.SIGKILL) {
		t.Errorf("joined: %d, %v", code, err)
	}
	if err := other.Signal(0); err != nil {
		t.Errorf("the other container: %v", err)
	}
	if out, e := w.output(t, testSpec("echo", "on")); out != "on\n" || e.Code != 0 {
		t.Errorf("the next one: %q, %d", out, e.Code)
	}
}

// memoryOf is what a container uses.
func memoryOf(t *testing.T, g *cgroup.Group) int64 {
	t.Helper()
	for _, dir := range g.Dirs() {
		for _, name := range []string{"memory.usage_in_bytes", "memory.current"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				continue
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("nothing counts its memory")
	return 0
}

// TestOwnProgram has containers execute what they have by /proc/self/exe at that moment: no program of the host, but a copy of
// the helper that nobody can change, and that does nothing there.
func TestOwnProgram(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	spec := func(args ...string) *specs.Spec {
		s := testSpec(args...)
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"bind", "ro"}})
		return s
	}
	if out, e := w.output(t, spec("/mnt/script")); out != "" || e.Code != 126 {
		t.Errorf("first process: %d, %q", e.Code, out)
	}
	p, c := w.start(t, spec("sleep", "100"))
	if code, err := w.join(t, p, c, "/mnt/script"); code != 126 || err != nil {
		t.Errorf("joined: %d, %v", code, err)
	}
	if _, err := w.launcher.program.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write to the program: %v", err)
	}
	if err := w.launcher.program.Truncate(1 << 20); !errors.Is(err, unix.EPERM) {
		t.Errorf("lengthen the program: %v", err)
	}
}

// TestHelperDies kills the helper, at rest and with an order that it has not carried out.
func TestHelperDies(t *testing.T) {
	w := newWorld(t)
	running, c := w.start(t, testSpec("sleep", "100"))
	works := func() {
		t.Helper()
		if out, e := w.output(t, testSpec("echo", "on")); out != "on\n" || e.Code != 0 {
			t.Errorf("the next one: %q, %d", out, e.Code)
		}
		if code, err := w.join(t, running, c, "true"); code != 0 || err != nil {
			t.Errorf("join what runs: %d, %v", code, err)
		}
	}
	first := w.launcher.helper
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.ended
	works()

	second := w.launcher.helper
	if second == first {
		t.Fatal("the dead helper works")
	}
	if err := second.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	next := w.config(t, testSpec("true"))
	go func() {
		_, _, err := w.launcher.Create(next)
		failed <- err
	}()
	raw, err := second.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for queued, deadline := 0, time.After(10*time.Second); queued == 0; {
		select {
		case <-deadline:
			t.Fatal("there is no order")
		case <-time.After(time.Millisecond):
		}
		if err := raw.Control(func(fd uintptr) { queued, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "ctrsnap-init, which starts containers, has ended (signal: killed)") {
		t.Errorf("an order to the helper that died: %v", err)
	}
	works()
}

// TestHelperLeaves has the helper go when its launcher does.
func TestHelperLeaves(t *testing.T) {
	w := newWorld(t)
	h := w.launcher.helper
	w.launcher.Close()
	<-h.ended
}

// TestNotAdopted has the helper fail at what it does for a child.
func TestNotAdopted(t *testing.T) {
	w := newWorld(t)
	twice := []specs.LinuxIDMapping{{HostID: 7, Size: 10}, {HostID: 70, Size: 10}}
	if _, err := w.launcher.Namespace(IDs{Users: twice, Groups: twice}); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "uid_map") {
		t.Errorf("ids twice: %v", err)
	}
	once := []specs.LinuxIDMapping{{HostID: 7, Size: 10}}
	ns, err := w.launcher.Namespace(IDs{Users: once, Groups: once})
	if err != nil {
		t.Fatal(err)
	}
	ns.Close()
}

// TestNoHelper is a program that was built without one.
func TestNoHelper(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	was := initProgram
	defer func() { initProgram = was }()
	initProgram = func() ([]byte, error) { return programFor("none") }
	if _, err := New(); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "built without ctrsnap-init") {
		t.Errorf("a launcher without it: %v", err)
	}
}
