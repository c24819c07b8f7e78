package foreign

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// hostile are files that nobody may open, and what they are called.
var hostile = map[string]string{
	"fifo": "FIFO", "socket": "socket", "out": "symbolic link", "in": "symbolic link", "dir": "directory",
	"disk": "block device", "zero": "character device",
}

// hostileTree makes a tree with all of them, beside a file.
func hostileTree(t *testing.T) (*os.Root, string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, "tree", name) }
	must(t, os.MkdirAll(path("dir/below"), 0o755))
	must(t, os.WriteFile(path("file"), []byte("text"), 0o600))
	must(t, os.WriteFile(path("dir/below/file"), []byte("deep"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("of the host"), 0o600))
	must(t, os.Symlink(filepath.Join(dir, "secret"), path("out")))
	must(t, os.Symlink("file", path("in")))
	must(t, unix.Mkfifo(path("fifo"), 0o666))
	must(t, unix.Mknod(path("disk"), unix.S_IFBLK|0o666, int(unix.Mkdev(7, 3))))
	must(t, unix.Mknod(path("zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	l, err := net.Listen("unix", path("socket"))
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	root, err := os.OpenRoot(path(""))
	must(t, err)
	t.Cleanup(func() { _ = root.Close() })
	return root, dir
}

// TestOpen opens a file and nothing else. A FIFO that blocked, by whichever way, would hang the test.
func TestOpen(t *testing.T) {
	root, dir := hostileTree(t)
	if text, err := ReadFile(root, "dir/below/file", 4); err != nil || string(text) != "deep" {
		t.Errorf("file: %q, %v", text, err)
	}
	if _, err := ReadFile(root, "file", 3); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a file beyond the limit: %v", err)
	}
	for name, kind := range hostile {
		_, openErr := Open(root, name)
		_, fsErr := fs.ReadFile(FS(root), name)
		_, pathErr := OpenPath(filepath.Join(dir, "tree", name))
		writeErr := WriteFile(root, name, []byte("x"), 0o600)
		for way, err := range map[string]error{"open": openErr, "file system": fsErr, "path": pathErr, "write": writeErr} {
			if way == "path" && kind == "symbolic link" {
				continue // followed: it is a path of the host
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name+" is a "+kind) {
				t.Errorf("%s of %s: %v", way, name, err)
			}
		}
	}
	if _, err := Open(root, "../secret"); err == nil {
		t.Error("a name led out of the tree")
	}
	if text, err := os.ReadFile(filepath.Join(dir, "secret")); err != nil || string(text) != "of the host" {
		t.Errorf("file outside of the tree: %q, %v", text, err)
	}
}

func TestWriteFile(t *testing.T) {
	root, _ := hostileTree(t)
	for _, text := range []string{"a longer text", "short"} {
		for _, name := range []string{"file", "new"} {
			must(t, WriteFile(root, name, []byte(text), 0o600))
			if got, err := ReadFile(root, name, 100); err != nil || string(got) != text {
				t.Errorf("%s holds %q, %v; want %q", name, got, err, text)
			}
		}
	}
	if _, err := Create(root, "out", 0o600); !os.IsExist(err) {
		t.Errorf("create in place of a link: %v", err)
	}
}

// TestWalk sees all that is there, without opening what is neither file nor directory.
func TestWalk(t *testing.T) {
	root, _ := hostileTree(t)
	var names []string
	must(t, fs.WalkDir(FS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == 0 {
			_, err = d.Info()
		}
		names = append(names, name)
		return err
	}))
	want := []string{".", "dir", "dir/below", "dir/below/file", "disk", "fifo", "file", "in", "out", "socket", "zero"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"fifo", "file", "out", "disk"} {
		if _, err := fs.ReadDir(FS(root), name); err == nil {
			t.Errorf("%s was listed", name)
		}
	}
	if found, err := fs.Glob(FS(root), "*/file"); err != nil || len(found) > 0 {
		t.Errorf("glob = %v, %v", found, err)
	}
}

// TestCheck removes what it names until nothing is left to be refused.
func TestCheck(t *testing.T) {
	root, dir := hostileTree(t)
	must(t, unix.Mknod(filepath.Join(dir, "tree/dir/below/gone"), unix.S_IFCHR, 0)) // a whiteout
	for _, name := range []string{"disk", "fifo", "socket", "zero"} {
		err := Check(t.Context(), root)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name+" is a "+hostile[name]) {
			t.Errorf("with %s: %v", name, err)
		}
		must(t, root.Remove(name))
	}
	if err := Check(t.Context(), root); err != nil {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
