package containerd

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
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
