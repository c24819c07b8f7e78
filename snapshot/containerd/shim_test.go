package containerd_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

// TestShimsOutlive runs a container with the stock shim, stops containerd, starts
// another in the same place, and finds the container running.
func TestShimsOutlive(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const envPhase, envDir = "CTRSNAP_TEST_PHASE", "CTRSNAP_TEST_DIR"
	if phase := os.Getenv(envPhase); phase != "" {
		inDir(t, os.Getenv(envDir), map[string]func(*testing.T, context.Context, *client.Client){
			"first": runSleep, "second": findSleep,
		}[phase])
		return
	}
	dir, err := os.MkdirTemp("", "cs") //nolint:usetesting // short: it is part of the name of the shim's socket
	do(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, phase := range []string{"first", "second"} {
		out, err := containerdtest.Command(t, t.Name(), envPhase+"="+phase, envDir+"="+dir).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", phase, err, out)
		}
	}
}

// inDir does something with a containerd that lives in dir.
func inDir(t *testing.T, dir string, fn func(*testing.T, context.Context, *client.Client)) {
	o := containerdtest.Options(dir)
	if o.ShimDir == "" {
		o.ShimDir, _ = filepath.Abs("../../bin")
	}
	srv, err := containerd.Start(t.Context(), o)
	do(t, err)
	defer func() { do(t, srv.Stop(t.Context())) }()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), snapshot.Namespace), time.Minute)
	defer cancel()
	fn(t, ctx, srv.Client())
}

// runSleep leaves a container running.
func runSleep(t *testing.T, ctx context.Context, c *client.Client) {
	sn := c.SnapshotService(snapshot.Snapshotter)
	mounts, err := sn.Prepare(ctx, "root", "", snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "x"}))
	do(t, err)
	copySleep(t, mounts[0].Source)
	con, err := c.NewContainer(ctx, "sleeper",
		client.WithSnapshotter(snapshot.Snapshotter), client.WithSnapshot("root"),
		client.WithNewSpec(oci.WithDefaultSpec(), oci.WithProcessArgs("/bin/sleep", "600")))
	do(t, err)
	task, err := con.NewTask(ctx, cio.NullIO)
	do(t, err)
	do(t, task.Start(ctx))
}

// findSleep finds it and removes it.
func findSleep(t *testing.T, ctx context.Context, c *client.Client) {
	con, err := c.LoadContainer(ctx, "sleeper")
	do(t, err)
	task, err := con.Task(ctx, nil)
	do(t, err)
	if s, err := task.Status(ctx); err != nil || s.Status != client.Running {
		t.Errorf("status %v, %v", s, err)
	}
	exit, err := task.Wait(ctx)
	do(t, err)
	do(t, task.Kill(ctx, syscall.SIGKILL))
	if s := <-exit; s.ExitCode() != 128+9 {
		t.Errorf("exit code %d, %v", s.ExitCode(), s.Error())
	}
	_, err = task.Delete(ctx)
	do(t, err)
	do(t, con.Delete(ctx, client.WithSnapshotCleanup))
}

// copySleep puts the host's sleep and its libraries below root.
func copySleep(t *testing.T, root string) {
	sleep, err := exec.LookPath("sleep")
	do(t, err)
	out, err := exec.Command("ldd", sleep).Output()
	do(t, err)
	files := map[string]string{sleep: "/bin/sleep"}
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
		files[lib] = lib
	}
	for from, to := range files {
		b, err := os.ReadFile(from)
		do(t, err)
		to = filepath.Join(root, to)
		do(t, os.MkdirAll(filepath.Dir(to), 0o755))
		do(t, os.WriteFile(to, b, 0o755))
	}
}

func do(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
