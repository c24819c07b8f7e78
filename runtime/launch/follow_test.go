package launch

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFollow has links lead to what is not there, within the root filesystem.
func TestFollow(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{
		"relative": "../run/systemd/resolve/stub-resolv.conf", "absolute": "/run/resolv.conf", "again": "relative",
		"out": "../../../../../../run/out", "loop": "loop", "kernel": "/proc/sys/x",
	} {
		if err := os.Symlink(to, filepath.Join(dir, "etc", link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc", filepath.Join(dir, "usr")); err != nil { // of the root, not the host's
		t.Fatal(err)
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	b := &builder{root: root}
	for p, want := range map[string]string{
		"/etc/relative": "/run/systemd/resolve/stub-resolv.conf", "/etc/absolute": "/run/resolv.conf",
		"/etc/again": "/run/systemd/resolve/stub-resolv.conf", "/etc/out": "/run/out", "/etc/loop": "/etc/loop",
		"/etc/kernel": "/proc/sys/x", "/usr/absolute": "/run/resolv.conf", "/etc/none": "/etc/none", "/none/none": "/none/none",
	} {
		if got := b.follow(p); got != want {
			t.Errorf("%s leads to %s, want %s", p, got, want)
		}
	}
}
