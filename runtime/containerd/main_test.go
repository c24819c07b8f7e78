package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

func TestMain(m *testing.M) {
	if os.Getenv("CTRSNAP_TEST_BIN") == "" {
		bin, err := filepath.Abs("../../bin")
		if err == nil {
			err = os.Setenv("CTRSNAP_TEST_BIN", bin)
		}
		if err != nil {
			panic(err)
		}
	}
	containerdtest.Main()
	os.Exit(m.Run())
}

// host is a directory with all that the tests of a Runner need.
type host struct {
	dir     string
	rootfs  string
	address string
	options Options
}

func newHost(t testing.TB) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "ctrsnap") //nolint:usetesting // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, rootfs: filepath.Join(dir, "rootfs"), address: containerdtest.Options(dir).Address}
	h.options = Options{
		RuncRoot:    filepath.Join(dir, "runc"),
		FIFODir:     filepath.Join(dir, "fifo"),
		RecordDir:   filepath.Join(dir, "records"),
		CgroupPath:  "/" + filepath.Base(dir),
		drainPeriod: 300 * time.Millisecond,
	}
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		h.checkClean(t)
		goleak.VerifyNone(t, leaks)
		os.RemoveAll(dir)
	})
	makeRootfs(t, h.rootfs, "sh", "cat", "sleep", "stty", "id", "grep", "ls", "head")
	return h
}

// runner connects to the containerd of the host, which must be served.
func (h *host) runner(t testing.TB) *Runner {
	t.Helper()
	c, err := client.New(h.address, client.WithDefaultNamespace(snapshot.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return New(c, h.options)
}

// checkClean fails the test if a mount, a cgroup, a fifo or a shim is left.
func (h *host) checkClean(t testing.TB) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(h.dir))
	if err != nil || len(mounts) > 0 {
		t.Errorf("mounts left: %v, %v", mounts, err)
	}
	for _, dir := range newCgroups("/sys/fs/cgroup").dirs(h.options.CgroupPath) {
		if err := os.Remove(dir); err != nil {
			t.Errorf("cgroup left: %v", err)
		}
	}
	for _, dir := range []string{h.options.FIFODir, h.options.RecordDir, filepath.Join(h.options.RuncRoot, snapshot.Namespace)} {
		left, err := os.ReadDir(dir)
		if len(left) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	// A shim ends a moment after its last container.
	eventually(t, "shims end", func() error {
		if pids := shims(t, h.address); len(pids) > 0 {
			return fmt.Errorf("shims left: %v", pids)
		}
		return nil
	})
}

// shims returns the processes of shims that report to address.
func shims(t testing.TB, address string) (pids []string) {
	t.Helper()
	cmdlines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range cmdlines {
		cmdline, _ := os.ReadFile(f)
		if bytes.Contains(cmdline, []byte("containerd-shim")) && bytes.Contains(cmdline, []byte(address)) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// eventually tries until check is content.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Errorf("%s: %v", what, err)
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// makeRootfs copies programs of the host with the libraries that they need.
func makeRootfs(t testing.TB, dir string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		path, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		copyFile(t, path, filepath.Join(dir, "bin", p))
		libs, err := exec.Command("ldd", path).Output()
		if err != nil {
			t.Fatalf("ldd %s: %v", path, err)
		}
		for _, word := range strings.Fields(string(libs)) {
			if filepath.IsAbs(word) {
				copyFile(t, word, filepath.Join(dir, word))
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "data"), []byte("no program"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// container describes a container that runs a shell script as an ordinary user.
func (h *host) container(id, script string) runtime.Container {
	return runtime.Container{
		ID:       id,
		Hostname: "inside",
		Rootfs: func(context.Context) ([]mount.Mount, error) {
			return []mount.Mount{{Type: "bind", Source: h.rootfs, Options: []string{"rbind", "rw"}}}, nil
		},
		Process: shell(script),
		Labels:  map[string]string{"ctrsnap.io/kind": "test"},
	}
}

func shell(script string) runtime.Process {
	return runtime.Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin"}, UID: 1000, GID: 1000}
}

// start creates and starts a container that the test deletes at its end.
func start(t *testing.T, r *Runner, c runtime.Container) (runtime.Task, <-chan runtime.Exit) {
	t.Helper()
	task, err := r.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Delete(context.WithoutCancel(t.Context()), c.ID); err != nil {
			t.Error(err)
		}
	})
	exits, err := task.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return task, exits
}

func await(t *testing.T, exits <-chan runtime.Exit) runtime.Exit {
	t.Helper()
	select {
	case e := <-exits:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("it did not end")
		panic("unreachable")
	}
}

// run runs a container to its end and returns its output.
func run(t *testing.T, r *Runner, c runtime.Container, stdin string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdio = &runtime.Stdio{Stdout: &out, Stderr: &errs}
	if stdin != "" {
		c.Stdio.Stdin = strings.NewReader(stdin)
	}
	_, exits := start(t, r, c)
	e := await(t, exits)
	if e.Err != nil {
		t.Fatal(e.Err)
	}
	return e.Code, out.String(), errs.String()
}
