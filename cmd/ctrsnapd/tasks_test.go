package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ctr runs containerd's own command line, for tasks of this daemon.
func (d *daemon) ctr(args ...string) result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args = append([]string{"-a", filepath.Join(d.state, "containerd.sock"), "-n", "ctrsnap", "tasks"}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(binDir(), "ctr"), args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// wantCtr runs ctr, which must end with code and print what says.
func (d *daemon) wantCtr(code int, says string, args ...string) {
	d.t.Helper()
	r := d.ctr(args...)
	if r.code != code || !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), says) {
		d.t.Errorf("ctr tasks %s: exit code %d, want %d, and %q in\n%s%s", strings.Join(args, " "), r.code, code, says, r.stdout, r.stderr)
	}
}

// TestTasks does to clones what one can do to containerd's tasks, from outside.
func TestTasks(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	c := cloneJSON(t, d, "shop")
	pid := fmt.Sprint(c.PID)
	d.wantCtr(0, c.ID+" "+pid+" RUNNING", "ls")
	d.wantCtr(0, pid, "ps", c.ID)
	d.wantCtr(3, "inside", "exec", "--exec-id", "e1", c.ID, "sh", "-c", "echo inside; exit 3")
	d.wantCtr(0, "memory", "metrics", c.ID)
	d.wantCtr(0, "", "pause", c.ID)
	d.wantCtr(0, c.ID+" "+pid+" PAUSED", "ls")
	d.restart(syscall.SIGKILL)
	d.wantCtr(0, c.ID+" "+pid+" PAUSED", "ls")
	d.wantCtr(0, "", "resume", c.ID)
	if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("after the pause it has %s rows", got)
	}
	d.wantOOM(c.ID)
	if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("after the death of another process it has %s rows", got)
	}
	d.wantCtr(0, "", "kill", "-s", "SIGKILL", c.ID)
	dead := func() bool { return d.run("inspect", c.ID, "--format", "{{.state}}") == "dead" }
	waitFor(t, "the killed clone to be dead", dead)
	d.wantCtr(0, c.ID+" "+pid+" STOPPED", "ls")
	d.wantCtr(0, "", "delete", c.ID) // with the exit code of the server
	d.run("rm", c.ID)
	waitFor(t, "the container to go", func() bool { return !strings.Contains(d.ctr("ls").stdout, c.ID) })
}

// wantOOM bounds the memory of a clone by an update, has a process in it take
// more, and waits until containerd tells of it.
func (d *daemon) wantOOM(id string) {
	d.t.Helper()
	client, err := containerd.New(filepath.Join(d.state, "containerd.sock"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "ctrsnap"), time.Minute)
	defer cancel()
	container, err := client.LoadContainer(ctx, id)
	if err != nil {
		d.t.Fatal(err)
	}
	task, err := container.Task(ctx, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	events, errs := client.Subscribe(ctx, `topic=="/tasks/oom"`)
	limit := int64(200 << 20)
	if err := task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
		d.t.Fatalf("update limits: %v", err)
	}
	// tail keeps what it reads: there is no line in it.
	if r := d.ctr("exec", "--exec-id", "hungry", id, "sh", "-c", "echo 1000 >/proc/self/oom_score_adj; head -c 400000000 /dev/zero | tail -n 1 | wc -c"); r.code == 0 && strings.HasPrefix(r.stdout, "4") {
		d.t.Errorf("a process took more memory than there is: %s", r.stdout)
	}
	select {
	case e := <-events:
		v, err := typeurl.UnmarshalAny(e.Event)
		if oom, ok := v.(*apievents.TaskOOM); err != nil || !ok || oom.ContainerID != id {
			d.t.Errorf("event %v: %v", v, err)
		}
	case err := <-errs:
		d.t.Errorf("no word of it: %v", err)
	}
}

// TestShimDies kills the shim of two clones: they end with it, are dead to whoever
// asks, and leave nothing; others and later ones are well.
func TestShimDies(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	a, b := cloneJSON(t, d, "shop"), cloneJSON(t, d, "shop")
	shim := parent(t, a.PID)
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", shim)); !strings.Contains(filepath.Base(exe), "shim") || parent(t, b.PID) != shim {
		t.Fatalf("clones of %s (%d) and of %d", exe, shim, parent(t, b.PID))
	}
	if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{a.ID, b.ID} {
		waitFor(t, "a clone to be dead", func() bool { return d.run("inspect", c, "--format", "{{.state}}") == "dead" })
		if _, err := tryQuery(a.URL, "SELECT 1"); err == nil {
			t.Error("it answers")
		}
	}
	if got := query(t, d.run("clone", "shop"), "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("a clone of another shim has %s rows", got)
	}
	d.run("rm", a.ID)
	d.restart(syscall.SIGKILL)
	waitFor(t, "the dead to be gone", func() bool { return !strings.Contains(d.run("ls"), b.ID) })
	if got := strings.Count(d.run("ls", "-q"), "\n"); got != 0 {
		t.Errorf("%d clones are left beside the one that lives", got)
	}
}

// parent returns the parent of a process.
func parent(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var state string
	var ppid int
	if _, err := fmt.Sscan(string(b[strings.LastIndexByte(string(b), ')')+1:]), &state, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}
