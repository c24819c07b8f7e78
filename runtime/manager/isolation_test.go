package manager

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestWithoutUsers: where users of clones are the host's, only administrators get clones, and are told so; nobody else runs
// anything in one that is there already.
func TestWithoutUsers(t *testing.T) {
	if !isRoot() {
		t.Skip("needs root: directories are given away")
	}
	w := newWorld(t)
	w.pool = Pool{}
	w.without = errors.New("the kernel is old")
	m, _ := w.manager(t)
	_, err := m.Create(t.Context(), ann, api.CloneRequest{Golden: "shop"})
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "the kernel is old") || len(w.left(t)) > 0 {
		t.Errorf("ann: %v; left: %v", err, w.left(t))
	}
	resp, err := m.Create(t.Context(), admin, api.CloneRequest{Golden: "shop"})
	if err != nil || resp.Clones[0].Isolation != api.IsolationRunc {
		t.Fatalf("an administrator: %+v, %v", resp.Clones, err)
	}
	c := m.registry.get(resp.Clones[0].ID)
	if c := m.CheckIsolation(t.Context()); c.Status != "warning" || !strings.Contains(c.Detail, "1 of the clones") {
		t.Errorf("doctor: %+v", c)
	}
	w.task(c.id).exec = func(runtime.Process, <-chan runtime.WindowSize) int { return 0 }
	exec := api.ExecRequest{Args: []string{"id"}}
	if _, err := m.Exec(t.Context(), admin, c.id, exec, noStdio, nil); err != nil {
		t.Errorf("an administrator's command: %v", err)
	}
	c.change(func(r *record) { r.OwnerUID = ann.UID() }) // as of an earlier release
	if _, err := m.Exec(t.Context(), ann, c.id, exec, noStdio, nil); !errdefs.IsPermissionDenied(err) {
		t.Errorf("ann's command: %v", err)
	}
}

// TestMemberWithoutUsers: members of the pool whose users are the host's go once clones have users of their own.
func TestMemberWithoutUsers(t *testing.T) {
	pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
		for _, now := range []struct {
			without error
			members int
		}{{nil, 2}, {errors.New("the kernel is old"), 0}} {
			if err := m.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.without = now.without
			var report Report
			m, report = w.manager(t)
			if report != (Report{Members: now.members, Removed: 2 - now.members}) {
				t.Errorf("%+v: %+v", now, report)
			}
		}
	})
}

func TestIsolationOf(t *testing.T) {
	if got := isolationOf(os.Getpid()); got != api.IsolationRunc {
		t.Errorf("this process: %s", got)
	}
	if got := isolationOf(1 << 30); got != api.IsolationRunc {
		t.Errorf("none: %s", got)
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if err := cmd.Start(); err != nil {
		t.Skipf("no user namespaces here: %v", err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if got := isolationOf(cmd.Process.Pid); got != api.IsolationUsers {
		t.Errorf("in a user namespace: %s", got)
	}
}
