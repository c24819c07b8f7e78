package foreign

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAs: a file is opened with the rights of a user, their groups among them, and of nobody else's; what goes on beside it keeps its own.
func TestAs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		must(t, os.Chmod(d, 0o755))
	}
	for name, own := range map[string][3]int{
		"root's": {0, 0, 0o600}, "their own": {51001, 0, 0o400}, "the group's": {0, 51009, 0o040}, "anybody's": {0, 0, 0o004},
	} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(name), 0o600))
		must(t, os.Chown(path, own[0], own[1]))
		must(t, os.Chmod(path, fs.FileMode(own[2])))
		var f *os.File
		err := As(51001, []int{51001, 51009}, func() (err error) {
			f, err = OpenSource(path)
			if ids, gerr := os.Getgroups(); gerr != nil || len(ids) == 0 {
				t.Errorf("groups: %v, %v", ids, gerr)
			}
			return err
		})
		if name == "root's" {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			if text, err := io.ReadAll(f); err != nil || string(text) != name {
				t.Errorf("%s: %q, %v", name, text, err)
			}
			must(t, f.Close())
		}
		if text, err := os.ReadFile(path); err != nil || string(text) != name {
			t.Errorf("others have lost their rights: %q, %v", text, err)
		}
	}
	for _, who := range []struct {
		uid    int
		groups []int
	}{{-1, []int{1}}, {51001, nil}} {
		if err := As(who.uid, who.groups, func() error { return nil }); !errors.Is(err, unix.EINVAL) {
			t.Errorf("as %v: %v", who, err)
		}
	}
}

// TestOpenSource follows no link, wherever it is in the path.
func TestOpenSource(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Mkdir(dir+"/real", 0o755))
	must(t, os.WriteFile(dir+"/real/file", nil, 0o644))
	must(t, os.Symlink("real", dir+"/link"))
	must(t, os.Symlink("file", dir+"/real/last"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	for name, ok := range map[string]bool{"real/file": true, "link/file": false, "real/last": false, "fifo": false} {
		f, err := OpenSource(filepath.Join(dir, name))
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			must(t, f.Close())
		}
	}
}

// TestNobodyStays: no thread of this process keeps the rights of a user, not the first one either.
func TestNobodyStays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for range 2000 {
		must(t, As(51001, []int{51001}, func() error { return nil }))
	}
	stayed := func() (threads []string) {
		all, err := filepath.Glob("/proc/self/task/*/status")
		must(t, err)
		return slices.DeleteFunc(all, func(thread string) bool {
			status, err := os.ReadFile(thread)
			return err != nil || !strings.Contains(string(status), "\t51001\n") // the last of Uid and of Gid
		})
	}
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(time.Millisecond); len(stayed()) > 0; { // the last one is just ending
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still the user's: %v", stayed())
		}
	}
}
