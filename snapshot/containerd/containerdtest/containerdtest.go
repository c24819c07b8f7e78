// Package containerdtest runs embedded containerds for tests. A process can start
// one only, so each gets a process of its own: the test binary, once more.
package containerdtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
)

// Environment that turns a test binary into something else.
const (
	envServe = "CTRSNAP_TEST_SERVE" // directory: be a containerd
	envChild = "CTRSNAP_TEST_CHILD" // name of the test that runs alone
)

// Main is to be called by TestMain of packages that use Serve. It returns if
// this process is to run tests.
func Main() {
	dir := os.Getenv(envServe)
	if dir == "" {
		return
	}
	if err := serve(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is a containerd until it gets SIGTERM or its parent is gone.
func serve(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := containerd.Start(ctx, Options(dir))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return s.Stop(context.WithoutCancel(ctx))
}

// Options are those of a containerd that lives in dir.
func Options(dir string) containerd.Options {
	return containerd.Options{
		Root:    filepath.Join(dir, "root"),
		State:   filepath.Join(dir, "state"),
		Address: filepath.Join(dir, "containerd.sock"),
		ShimDir: os.Getenv("CTRSNAP_TEST_BIN"),
	}
}

// Serve runs a containerd in dir as a process of its own until the test ends,
// and returns its address.
func Serve(t testing.TB, dir string) string {
	t.Helper()
	cmd := self()
	cmd.Env = append(os.Environ(), envServe+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()); err != nil {
			t.Errorf("containerd in %s: %v", dir, err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("containerd in %s said %q: %v", dir, line, err)
	}
	return Options(dir).Address
}

// Alone says whether the test runs in a process of its own, where it may Start a
// containerd. If not, Alone runs it in one and reports how that ended; the test
// is then to return.
func Alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envChild) == t.Name() {
		return true
	}
	out, err := Command(t, t.Name()).CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in a process of its own: %v", err)
	}
	return false
}

// Command returns the command that runs a top-level test alone, with more
// environment.
func Command(t testing.TB, name string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := self("-test.run=^"+name+"$", "-test.v", "-test.count=1", "-test.timeout=5m")
	cmd.Env = append(append(os.Environ(), envChild+"="+name), env...)
	return cmd
}

// self is this test binary, which dies with its parent.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}
