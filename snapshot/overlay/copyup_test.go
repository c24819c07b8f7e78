package overlay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestCopyUp compares a filesystem with files copied up to one without.
func TestCopyUp(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	top, below, upper, work := filepath.Join(dir, "top"), filepath.Join(dir, "below"), filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	write := func(name, text string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, []byte(text), 0o640))
	}
	write(top+"/a/b/small", "content")
	write(top+"/a/b/empty", "")
	write(top+"/a/large", strings.Repeat("x", MaxCopyUp+1))
	write(top+"/a/b/attr", "has one")
	write(top+"/other/file", "not named")
	write(below+"/a/b/lower", "below")
	write(dir+"/secret", "of the host")
	must(t, os.Symlink(dir+"/secret", top+"/a/link"))
	must(t, os.Symlink("a", top+"/dirlink"))
	must(t, unix.Mkfifo(top+"/a/fifo", 0o600))
	must(t, os.Chown(top+"/a/b", 12, 34))
	must(t, os.Chmod(top+"/a/b", 0o2770))
	must(t, os.Chown(top+"/a/b/small", 56, 78))
	must(t, os.Chmod(top+"/a/b/small", 0o4751))
	must(t, unix.Setxattr(top+"/a/b/attr", "user.x", []byte("y"), 0))
	must(t, os.Mkdir(upper, 0o755))
	must(t, os.Mkdir(work, 0o755))
	layers := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + upper, "workdir=" + work, "lowerdir=" + top + ":" + below}}
	names := []string{
		"a/b/small", "/a/b/empty", "a/b/small", "a/large", "a/b/attr", "a/b/lower", "a/link", "a/fifo", "dirlink/b/small",
		"a/missing", "missing/x", "../secret", "a/../../secret", ".", "a/b", "",
	}
	must(t, CopyUp([]mount.Mount{layers}, names))
	if diff := cmp.Diff([]string{"a", "a/b", "a/b/empty", "a/b/small"}, tree(t, upper)); diff != "" {
		t.Errorf("upper layer: %s", diff)
	}
	for _, name := range []string{"a", "a/b", "a/b/small", "a/b/empty"} {
		want, got := lstat(t, filepath.Join(top, name)), lstat(t, filepath.Join(upper, name))
		if want.Mode != got.Mode || want.Uid != got.Uid || want.Gid != got.Gid || want.Mode&unix.S_IFREG != 0 && want.Mtim != got.Mtim {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	merged := filepath.Join(dir, "merged")
	must(t, os.Mkdir(merged, 0o755))
	must(t, mount.All([]mount.Mount{layers}, merged))
	defer func() { must(t, mount.UnmountAll(merged, 0)) }()
	text, err := os.ReadFile(merged + "/a/b/small")
	if err != nil || string(text) != "content" {
		t.Errorf("merged: %q, %v", text, err)
	}
	text, err = os.ReadFile(merged + "/a/b/lower")
	if err != nil || string(text) != "below" {
		t.Errorf("merged: %q, %v", text, err)
	}
	must(t, os.WriteFile(merged+"/a/b/small", []byte("new"), 0))
	if text, err := os.ReadFile(top + "/a/b/small"); err != nil || string(text) != "content" {
		t.Errorf("lower layer: %q, %v", text, err)
	}
}

// TestCopyUpElsewhere leaves mounts alone that have no upper layer.
func TestCopyUpElsewhere(t *testing.T) {
	for _, m := range [][]mount.Mount{nil, {{Type: "bind", Source: "/"}}, {{Type: "overlay", Options: []string{"lowerdir=/a:/b"}}}} {
		if err := CopyUp(m, []string{"etc/passwd"}); err != nil {
			t.Error(err)
		}
	}
}

func tree(t *testing.T, root string) (names []string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, p); rel != "." {
			names = append(names, rel)
		}
		return err
	}))
	return names
}

func lstat(t *testing.T, name string) (st unix.Stat_t) {
	t.Helper()
	must(t, unix.Lstat(name, &st))
	return st
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
