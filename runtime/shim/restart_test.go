package shim

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/ctrsnap/ctrsnap/runtime/shim/sandboxes"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd/containerdtest"
)

// serve runs the host's containerd in a process that the test may kill.
func (h *host) serve(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CTRSNAP_TEST_SERVE="+h.dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("containerd said %q: %v", line, err)
	}
	h.client, err = client.New(containerdtest.Options(h.dir).Address, client.WithDefaultNamespace(snapshot.Namespace))
	must(t, err)
	h.pool = sandboxes.New(h.client.SandboxStore(), h.client.SandboxController("shim"), sandboxes.Options{})
	return cmd
}

// TestRestart kills containerd, and later the shim: containers outlive the one and
// die with the other.
func TestRestart(t *testing.T) {
	h := prepare(t)
	first := h.serve(t)
	log := filepath.Join(h.dir, "log")
	task := h.create(t, Name, "survivor", h.spec("survivor", "sh", "-c", "echo up; sleep 100"), cio.LogFile(log))
	must(t, task.Start(h.ctx))
	pid, sandbox := task.Pid(), h.sandboxOf(t, "survivor")
	first.Process.Kill()
	first.Wait()
	h.pool.Close()
	h.client.Close()

	second := h.serve(t)
	defer func() {
		h.pool.Close()
		h.client.Close()
		second.Process.Signal(syscall.SIGTERM)
		must(t, second.Wait())
	}()
	must(t, h.pool.Recover(h.ctx, map[string]int{sandbox: 1}))
	c, err := h.client.LoadContainer(h.ctx, "survivor")
	must(t, err)
	task, err = c.Task(h.ctx, nil)
	must(t, err)
	h.is(t, task, client.Running)
	if task.Pid() != pid {
		t.Errorf("pid is %d, was %d", task.Pid(), pid)
	}
	if id, err := h.pool.Acquire(h.ctx); err != nil || id != sandbox {
		t.Errorf("sandbox of the next container: %s, %v, want %s", id, err, sandbox)
	}
	exit, err := task.Wait(h.ctx)
	must(t, err)
	status, err := h.client.SandboxController("shim").Status(h.ctx, sandbox, false)
	must(t, err)
	deadline := time.After(10 * time.Second)
	for b, err := os.ReadFile(log); string(b) != "up\n"; b, err = os.ReadFile(log) {
		select {
		case <-deadline:
			t.Fatalf("log: %q, %v", b, err)
		case <-time.After(time.Millisecond):
		}
	}
	must(t, syscall.Kill(int(status.Pid), syscall.SIGKILL))
	<-exit
	deadline = time.After(10 * time.Second)
	for syscall.Kill(int(pid), 0) == nil || len(h.cgroupsOf("survivor")) > 0 {
		select {
		case <-deadline:
			t.Fatalf("left: process %v, cgroups %v", syscall.Kill(int(pid), 0), h.cgroupsOf("survivor"))
		case <-time.After(time.Millisecond):
		}
	}
	if _, err := c.Task(h.ctx, nil); err == nil {
		t.Error("the task of a dead shim is still there")
	}
	must(t, h.client.ContainerService().Delete(h.ctx, "survivor"))
	if id, err := h.pool.Acquire(h.ctx); err != nil || id == sandbox {
		t.Errorf("after the shim's death: sandbox %s, %v", id, err)
	} else {
		must(t, h.pool.Release(h.ctx, id))
	}
	must(t, h.pool.Drain(h.ctx))
}

func (h *host) sandboxOf(t *testing.T, id string) string {
	t.Helper()
	c, err := h.client.ContainerService().Get(h.ctx, id)
	must(t, err)
	return c.SandboxID
}

func (h *host) cgroupsOf(id string) []string {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(h.dir) + "/" + id)
	return dirs
}
