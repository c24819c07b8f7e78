package shim

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestLife takes a container through all that containerd does with one.
func TestLife(t *testing.T) {
	h := newHost(t)
	task := h.create(t, Name, "life", h.spec("life", "sleep", "100"), cio.NullIO)
	defer h.remove(t, task)
	h.is(t, task, client.Created)
	exit, err := task.Wait(h.ctx)
	must(t, err)
	must(t, task.Start(h.ctx))
	h.is(t, task, client.Running)
	must(t, task.Pause(h.ctx))
	h.is(t, task, client.Paused)
	must(t, task.Resume(h.ctx))
	h.is(t, task, client.Running)
	pids, err := task.Pids(h.ctx)
	if err != nil || len(pids) != 1 || pids[0].Pid != task.Pid() {
		t.Errorf("pids: %v, %v", pids, err)
	}
	limit := int64(64 << 20)
	must(t, task.Update(h.ctx, client.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})))
	if m, err := task.Metrics(h.ctx); err != nil || m.Data == nil {
		t.Errorf("metrics: %v, %v", m, err)
	}
	if code, out := h.exec(t, task, "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; exit 3"); code != 3 || out != "67108864\n" {
		t.Errorf("exec: %d, %q", code, out)
	}
	if _, err := task.Delete(h.ctx); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of what runs: %v", err)
	}
	must(t, task.Pause(h.ctx))
	must(t, task.Kill(h.ctx, syscall.SIGKILL)) // which thaws
	select {
	case e := <-exit:
		if e.ExitCode() != 137 || e.Error() != nil {
			t.Errorf("exit: %d, %v", e.ExitCode(), e.Error())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no end")
	}
	if err := task.Kill(h.ctx, syscall.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("kill of what has ended: %v", err)
	}
}

// TestExecIsFreed has processes join that nobody removes when they have ended: the shim keeps no descriptor of theirs.
func TestExecIsFreed(t *testing.T) {
	h := newHost(t)
	task := h.create(t, Name, "freed", h.spec("freed", "sleep", "100"), cio.NullIO)
	defer h.remove(t, task)
	must(t, task.Start(h.ctx))
	h.exec(t, task, "true") // what the shim opens once
	status, err := h.client.SandboxController("shim").Status(h.ctx, h.sandboxOf(t, "freed"), false)
	must(t, err)
	open := func() int {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", status.Pid))
		must(t, err)
		return len(files)
	}
	before := open()
	var left []client.Process
	for i := range 8 {
		p, err := task.Exec(h.ctx, fmt.Sprintf("left%d", i), &specs.Process{
			Args: []string{"true"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}, Terminal: i%2 == 0,
		}, cio.NewCreator(cio.WithStreams(strings.NewReader(""), io.Discard, io.Discard), cio.WithFIFODir(filepath.Join(h.dir, "fifo")), terminalIf(i%2 == 0)))
		must(t, err)
		exit, err := p.Wait(h.ctx)
		must(t, err)
		must(t, p.Start(h.ctx))
		<-exit
		left = append(left, p)
	}
	for deadline := time.After(10 * time.Second); open() > before; {
		select {
		case <-deadline:
			t.Fatalf("the shim has %d descriptors, %d before", open(), before)
		case <-time.After(time.Millisecond):
		}
	}
	for _, p := range left {
		if _, err := p.Delete(h.ctx); err != nil {
			t.Errorf("remove it after all: %v", err)
		}
	}
}

func terminalIf(on bool) cio.Opt {
	if on {
		return cio.WithTerminal
	}
	return func(*cio.Streams) {}
}

// TestRefused says that a container is one for runc, and leaves nothing behind.
func TestRefused(t *testing.T) {
	h := newHost(t)
	s := h.spec("refused", "sleep", "100")
	s.Linux.Sysctl = map[string]string{"kernel.msgmax": "1"}
	_, err := h.try(t, Name, "refused", s, cio.NullIO)
	if !errdefs.IsFailedPrecondition(err) || !bytes.Contains([]byte(err.Error()), []byte("linux.sysctl")) {
		t.Errorf("got %v", err)
	}
}

// TestManyAtOnce starts containers from many sides; a bounded number shares a shim.
func TestManyAtOnce(t *testing.T) {
	h := newHost(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			id := fmt.Sprintf("many%d", i)
			task, err := h.try(t, Name, id, h.spec(id, "sleep", "100"), cio.NullIO)
			if err == nil {
				err = task.Start(h.ctx)
			}
			if err != nil {
				t.Error(err)
				return
			}
			if code, out := h.exec(t, task, "cat", "/etc/passwd"); code != 0 || out == "" {
				t.Errorf("exec: %d, %q", code, out)
			}
			h.remove(t, task)
		})
	}
	wg.Wait()
}

func (h *host) is(t *testing.T, task client.Task, want client.ProcessStatus) {
	t.Helper()
	if s, err := task.Status(h.ctx); err != nil || s.Status != want {
		t.Errorf("status is %v, %v, want %s", s.Status, err, want)
	}
}

// exec runs a program in a container.
func (h *host) exec(t *testing.T, task client.Task, args ...string) (uint32, string) {
	var out, errs bytes.Buffer
	p, err := task.Exec(h.ctx, "exec", &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true,
	}, cio.NewCreator(cio.WithStreams(nil, &out, &errs), cio.WithFIFODir(filepath.Join(h.dir, "fifo"))))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	exit, err := p.Wait(h.ctx)
	if err == nil {
		err = p.Start(h.ctx)
	}
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	e := <-exit
	p.IO().Wait()
	if _, err := p.Delete(h.ctx); err != nil {
		t.Error(err)
	}
	return e.ExitCode(), out.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
