package containerd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// TestShimsAreFoundByTheirFlags runs a program under the name and flags of a
// shim.
func TestShimsAreFoundByTheirFlags(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(t.TempDir(), "c.sock")
	start := func(args ...string) *exec.Cmd {
		// `sleep 60 FLAGS` would not start: the shell keeps them as its own arguments.
		cmd := exec.Command("/bin/sh", append([]string{"-c", "while :; do " + sleep + " 60; done"}, args...)...)
		cmd.Args[0] = "/usr/bin/containerd-shim-test-v1"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it has children
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
		return cmd
	}
	ours := start("-namespace", "ctrsnap", "-id", "c1", "-address", address)
	start("-namespace", "k8s.io", "-id", "c2", "-address", address)
	start("-namespace", "ctrsnap", "-id", "c3", "-address", address+".other")
	shims, err := findShims(address)
	if err != nil || len(shims) != 1 || shims[ours.Process.Pid] != "c1" {
		t.Fatalf("found %v, %v, want only process %d", shims, err, ours.Process.Pid)
	}
	if err := killShim(ours.Process.Pid, "another", address); err != nil {
		t.Error(err)
	}
	if shimID(ours.Process.Pid, address) != "c1" {
		t.Error("a shim of another id was killed")
	}
	if err := killShim(ours.Process.Pid, "c1", address); err != nil {
		t.Error(err)
	}
	if err := ours.Wait(); err == nil {
		t.Error("the shim ended well")
	}
}

// TestKillShims kills the shims of one id, and returns when they have ended.
func TestKillShims(t *testing.T) {
	address := t.TempDir() + "/containerd.sock"
	start := func(id string) *exec.Cmd {
		cmd := exec.Command("/bin/sh")
		cmd.Args = []string{"some-shim", "-c", "read line", "-namespace", snapshot.Namespace, "-address", address, "-id", id}
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return cmd
	}
	one, other := start("c1"), start("c2")
	if ids, err := ShimIDs(address); err != nil || !slices.Equal(ids, []string{"c1", "c2"}) {
		t.Fatalf("shims %v, %v", ids, err)
	}
	if err := KillShims("c1", address); err != nil {
		t.Fatal(err)
	}
	ended := func(cmd *exec.Cmd) bool { // and not waited for
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, state, _ := strings.Cut(string(b), ") ")
		return strings.HasPrefix(state, "Z")
	}
	if !ended(one) || ended(other) {
		t.Errorf("ended are the shim: %t, another one's: %t", ended(one), ended(other))
	}
	if ids, err := ShimIDs(address); err != nil || !slices.Equal(ids, []string{"c2"}) {
		t.Errorf("left are %v, %v", ids, err)
	}
}
