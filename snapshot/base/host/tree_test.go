package host

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// TestWrite looks at what becomes of modes and links.
func TestWrite(t *testing.T) {
	dir := publicDir(t)
	tree := filepath.Join(dir, "tree")
	must(t, os.MkdirAll(tree+"/sub", 0o755))
	must(t, os.WriteFile(tree+"/sub/file", []byte("content"), 0o644))
	must(t, os.WriteFile(tree+"/setuid", []byte("x"), 0o755))
	must(t, os.Chmod(tree+"/setuid", 0o755|fs.ModeSetuid|fs.ModeSetgid))
	must(t, os.WriteFile(tree+"/private", []byte("secret"), 0o600))
	must(t, os.WriteFile(dir+"/outside", []byte("outside"), 0o640|0o004))
	must(t, os.WriteFile(dir+"/secret", []byte("secret"), 0o600))
	for name, link := range map[string]string{
		"inside":    "sub/file",
		"absolute":  tree + "/sub/file",
		"up":        "../tree/sub",
		"outside":   "../outside",
		"dangling":  "nowhere",
		"loop":      "loop",
		"ancestor":  "../../..",
		"sub/again": "..",
	} {
		must(t, os.Symlink(link, filepath.Join(tree, name)))
	}
	_, plan, err := find(t, snapshot.HostTree{
		Files: []snapshot.HostFile{{Source: tree, Target: "/t"}},
		Users: []snapshot.User{{Name: "db", ID: 70, Home: "/data"}},
		Dirs:  []snapshot.HostDir{{Path: "/data", Mode: 0o1750, UID: os.Getuid(), GID: os.Getgid()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	first, err := plan.Write(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = filepath.WalkDir(root+"/t", func(name string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		what := info.Mode().String()
		if link, err := os.Readlink(name); err == nil {
			what = link
		} else if content, err := os.ReadFile(name); err == nil {
			what += " " + string(content)
		}
		got[strings.TrimPrefix(name, root)] = what
		return nil
	})
	must(t, err)
	want := map[string]string{
		"/t":           "drwxr-xr-x",
		"/t/sub":       "drwxr-xr-x",
		"/t/sub/file":  "-rw-r--r-- content",
		"/t/sub/again": "..",
		"/t/setuid":    "-rwxr-xr-x x",
		"/t/inside":    "sub/file",
		"/t/absolute":  "sub/file",
		"/t/up":        "sub",
		"/t/outside":   "-rw-r--r-- outside",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	for name, mode := range map[string]fs.FileMode{
		"/tmp": fs.ModeDir | fs.ModeSticky | 0o777, "/data": fs.ModeDir | fs.ModeSticky | 0o750,
		"/proc": fs.ModeDir | 0o755, "/etc/passwd": 0o644,
	} {
		if info, err := os.Lstat(root + name); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	passwd, _ := os.ReadFile(root + "/etc/passwd")
	if !strings.Contains(string(passwd), "db:x:70:70::/data:") {
		t.Errorf("passwd: %s", passwd)
	}

	second, err := plan.Write(t.Context(), t.TempDir())
	if err != nil || second != first {
		t.Errorf("second digest %s, %v; first %s", second, err, first)
	}
	must(t, os.WriteFile(tree+"/sub/file", []byte("changed"), 0o644))
	if _, err := plan.Write(t.Context(), t.TempDir()); !errdefs.IsUnavailable(err) {
		t.Errorf("write after a change: %v", err)
	}
}

// TestPrivate copies nothing that the one who made a link could not read.
func TestPrivate(t *testing.T) {
	dir := publicDir(t)
	must(t, os.MkdirAll(dir+"/closed", 0o700))
	must(t, os.WriteFile(dir+"/closed/file", []byte("secret"), 0o644))
	must(t, os.WriteFile(dir+"/private", []byte("secret"), 0o640))
	must(t, os.MkdirAll(dir+"/tree", 0o755))
	for name, target := range map[string]string{
		"file in a closed directory": dir + "/closed/file",
		"closed directory":           dir + "/closed",
		"private file":               dir + "/private",
		"kernel":                     "/proc/self/status",
	} {
		t.Run(name, func(t *testing.T) {
			link := dir + "/tree/link"
			must(t, os.Symlink(target, link))
			defer os.Remove(link)
			_, _, err := find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: link, Target: "/x"}}})
			if !errdefs.IsPermissionDenied(err) {
				t.Errorf("link by name: %v", err)
			}
			got, _, err := find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/tree", Target: "/x"}}})
			if err != nil || len(got) > 0 {
				t.Errorf("link in a tree: copied %v, %v", got, err)
			}
		})
	}
	_, _, err := find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/private"}}})
	if !errdefs.IsPermissionDenied(err) {
		t.Errorf("private file by name: %v", err)
	}
}

// TestLinksInCircles ends.
func TestLinksInCircles(t *testing.T) {
	dir := publicDir(t)
	for from, to := range map[string]string{"a": "b", "b": "c", "c": "a"} {
		must(t, os.MkdirAll(dir+"/"+from, 0o755))
		must(t, os.WriteFile(dir+"/"+from+"/file", nil, 0o644))
		must(t, os.Symlink("../"+to, dir+"/"+from+"/"+to))
	}
	got, _, err := find(t, snapshot.HostTree{Files: []snapshot.HostFile{{Source: dir + "/a", Target: "/a"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"/a/file": dir + "/a/file", "/a/b/file": dir + "/b/file", "/a/b/c/file": dir + "/c/file"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sources by target (-want +got):\n%s", diff)
	}
}
