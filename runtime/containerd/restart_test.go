package containerd

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// serve runs the host's containerd in a process that the test may kill.
func (h *host) serve(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CTRSNAP_TEST_SERVE="+h.dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("containerd said %q: %v", line, err)
	}
	return cmd
}

// TestRestart kills the process that runs containerd: what runs goes on and is
// found again, with its log, by the next one.
func TestRestart(t *testing.T) {
	h := newHost(t)
	first := h.serve(t)
	c := h.container("survivor", "while true; do read x </tick && echo $x; done")
	c.LogPath = filepath.Join(h.dir, "survivor.log")
	c.Record = []byte("kept")
	tick := filepath.Join(h.rootfs, "tick")
	if err := syscall.Mkfifo(tick, 0o666); err != nil {
		t.Fatal(err)
	}
	r := h.runner(t)
	task, err := r.Create(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	dead := h.container("dead", "sleep 100")
	doomed, err := r.Create(t.Context(), dead)
	if err != nil {
		t.Fatal(err)
	}
	if err := doomed.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first.Process.Kill()
	first.Wait()
	say(t, tick, "while nobody watches")
	// One more whose shim dies meanwhile.
	syscall.Kill(shimOf(t, doomed.PID()), syscall.SIGKILL)

	second := h.serve(t)
	defer func() {
		second.Process.Signal(syscall.SIGTERM)
		if err := second.Wait(); err != nil {
			t.Error(err)
		}
	}()
	r = h.runner(t)
	defer func() {
		for _, id := range []string{c.ID, dead.ID} {
			if err := r.Delete(context.WithoutCancel(t.Context()), id); err != nil {
				t.Error(err)
			}
		}
	}()
	infos, err := r.Containers(t.Context(), c.Labels)
	if err != nil || len(infos) != 2 {
		t.Fatalf("containers: %v, %v", infos, err)
	}
	if _, err := r.Load(t.Context(), dead.ID); !errdefs.IsNotFound(err) {
		t.Errorf("load of the dead one: %v", err)
	}
	again, err := r.Load(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	if again.PID() != task.PID() {
		t.Errorf("pid is %d, was %d", again.PID(), task.PID())
	}
	exits, err := again.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say(t, tick, "and after")
	eventually(t, "log", func() error {
		got, err := os.ReadFile(c.LogPath)
		if err == nil && !bytes.Equal(got, []byte("while nobody watches\nand after\n")) {
			err = fmt.Errorf("got %q", got)
		}
		return err
	})
	if err := again.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := await(t, exits); e.Code != 137 || e.Err != nil {
		t.Errorf("exit: %+v", e)
	}
}

// say writes a line to a fifo, which waits for its reader.
func say(t *testing.T, fifo, line string) {
	t.Helper()
	if err := os.WriteFile(fifo, []byte(line+"\n"), 0); err != nil {
		t.Fatal(err)
	}
}
