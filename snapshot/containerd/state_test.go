package containerd_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
)

// TestStateLiesInMemory also on a disk, and stays as it is once it is in use.
func TestStateLiesInMemory(t *testing.T) {
	disk, err := os.MkdirTemp("/var/tmp", "ctrsnap-state-") //nolint:usetesting // t.TempDir may lie in memory
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(disk, "containerd")
	t.Cleanup(func() {
		if err := containerd.UnmountState(dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(disk); err != nil {
			t.Error(err)
		}
	})
	if onTmpfs(t, disk) {
		t.Skip("/var/tmp is in memory itself")
	}
	used := filepath.Join(disk, "used")
	if err := os.MkdirAll(filepath.Join(used, "bundle"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second daemon finds it so
		if err := containerd.MountState(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if !onTmpfs(t, dir) {
			t.Fatal("it is on the disk")
		}
		if err := os.MkdirAll(filepath.Join(dir, "bundle"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := containerd.MountState(used, 0o711); err != nil || onTmpfs(t, used) {
		t.Errorf("a state with bundles is hidden, %v", err)
	}
	for range 2 {
		if err := containerd.UnmountState(dir); err != nil {
			t.Error(err)
		}
	}
	if onTmpfs(t, dir) {
		t.Error("it is mounted still")
	}
}

func onTmpfs(t *testing.T, dir string) bool {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return fs.Type == unix.TMPFS_MAGIC
}
