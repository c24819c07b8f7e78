package build

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// tree lists dir with modes.
func tree(t *testing.T, base string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.Walk(base, func(path string, fi os.FileInfo, err error) error {
		if err == nil {
			rel, _ := filepath.Rel(base, path)
			got[rel] = fi.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSpool(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // modes are ours, not the umask's
	w := newWorld(t)
	var got map[string]string
	var src runtime.Sources
	w.engine = func(_ context.Context, wb runtime.Workbench, s runtime.Sources) (b runtime.Built, err error) {
		src, got = s, tree(t, wb.SourceDir())
		return b, nil
	}
	r := shop(
		part("init", "z.sql", ""), part("init", "a.sql.gz", ""), part("init", "a.sql.gz", ""),
		part("dump-tar", "shop.dir", string(tarOf(t, dir("./"), file("toc.dat")))),
		part("mask", `C:\x\$(rm -rf ~).sql`, ""), part("mask", "..", ""), part("mask", strings.Repeat("ü", 300)+".sql", ""),
	)
	g, _, err := w.run(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	long := "0007-" + strings.Repeat("_", 96) + ".sql"
	want := map[string]string{
		".": "drwxr-xr-x", "init": "drwxr-xr-x", "init/0001-z.sql": "-rw-r--r--", "init/0002-a.sql.gz": "-rw-r--r--",
		"init/0003-a.sql.gz": "-rw-r--r--", "dump": "drwxr-xr-x", "dump/0004-shop.dir": "drwxr-xr-x",
		"dump/0004-shop.dir/toc.dat": "-rw-r--r--", "mask": "drwxr-xr-x", "mask/0005-__rm_-rf___.sql": "-rw-r--r--",
		"mask/0006-..": "-rw-r--r--", "mask/" + long: "-rw-r--r--",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	sources := runtime.Sources{
		Golden: "shop", Base: src.Base, Init: []string{"0001-z.sql", "0002-a.sql.gz", "0003-a.sql.gz"},
		Dump: "0004-shop.dir", Mask: []string{"0005-__rm_-rf___.sql", "0006-..", long},
	}
	if diff := cmp.Diff(sources, src); diff != "" {
		t.Error(diff)
	}
	if n := g.Sources[4].Name; n != "$(rm -rf ~).sql" {
		t.Errorf("recorded name %q", n)
	}
	if fi, err := os.Stat(w.SpoolDir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("spool is open: %v %v", fi, err)
	}
	w.checkNothingLeft()
}

func TestSpoolDataDirectory(t *testing.T) {
	w := newWorld(t)
	w.engine = func(_ context.Context, wb runtime.Workbench, s runtime.Sources) (b runtime.Built, err error) {
		if !s.Dir {
			t.Error("no directory in sources")
		}
		_, err = os.Stat(filepath.Join(wb.SourceDir(), "dir", "base", "1"))
		return b, err
	}
	r := shop(part("dir-tar", "pgdata", string(tarOf(t, file("base/1")))))
	g, _, err := w.run(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if s := g.Sources[0]; s.Kind != "dir" || s.Name != "pgdata" || !strings.HasPrefix(s.Digest, "sha256:") || s.Size == 0 {
		t.Errorf("source %+v", s)
	}
	_, _, err = w.run(t.Context(), shop(part("dir-tar", "pgdata", string(tarOf(t, link("pg_tblspc/1", "/mnt/ts"))))))
	var wrong *runtime.SourceError
	if !errors.As(err, &wrong) || wrong.File != "pgdata" || !strings.Contains(wrong.Message, "/mnt/ts") {
		t.Errorf("tablespace elsewhere: %v", err)
	}
	w.checkNothingLeft()
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestSpoolUploadBreaks(t *testing.T) {
	w := newWorld(t)
	for _, kind := range []string{"init", "dump", "dump-tar", "dir-tar"} {
		body := io.MultiReader(strings.NewReader(string(tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "f"}))[:512]), failingReader{errBoom})
		_, _, err := w.run(t.Context(), shop(api.Part{Kind: kind, Name: "x", Reader: body}))
		if !errors.Is(err, errBoom) {
			t.Errorf("%s: %v", kind, err)
		}
		w.checkNothingLeft()
	}
}

func TestSpoolNoSpace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	w := newWorld(t)
	if err := os.MkdirAll(w.SpoolDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", w.SpoolDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(w.SpoolDir, 0); err != nil {
			t.Error(err)
		}
	})
	_, _, err := w.run(t.Context(), shop(api.Part{Kind: "dump", Name: "big.dump", Reader: io.LimitReader(rand.Reader, 1<<20)}))
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "big.dump") || !strings.Contains(hintOf(err), "doctor") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
	w.checkNothingLeft()
}

func TestPrefix(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	base := t.TempDir()
	// The directories above are closed to others.
	for d := base; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mk := func(name string, uid int, mode os.FileMode) string {
		p := filepath.Join(base, name)
		if err := errors.Join(os.MkdirAll(p, 0o755), os.Chmod(p, mode), os.Chown(p, uid, uid)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	own, root, closed := mk("own", 1000, 0o700), mk("root", 0, 0o755), mk("closed", 0, 0o700)
	open, other := mk("open", 1000, 0o777), mk("other", 1001, 0o755)
	inOther := mk("other/x", 1000, 0o755)
	toOther := filepath.Join(base, "link")
	plain := filepath.Join(base, "file")
	if err := errors.Join(os.Symlink(other, toOther), os.WriteFile(plain, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		uid  int
		ok   func(error) bool
	}{
		{own, 1000, nil},
		{root, 1000, nil},
		{own, 0, nil},
		{other, 0, nil},
		{closed, 1000, errdefs.IsPermissionDenied},
		{own, 1001, errdefs.IsPermissionDenied},
		{open, 1000, errdefs.IsPermissionDenied},
		{other, 1000, errdefs.IsPermissionDenied},
		{inOther, 1000, errdefs.IsPermissionDenied},
		{toOther, 1000, errdefs.IsPermissionDenied},
		{plain, 0, errdefs.IsInvalidArgument},
		{filepath.Join(base, "none"), 0, errdefs.IsNotFound},
		{base + "/own/", 0, errdefs.IsInvalidArgument},
		{"own", 0, errdefs.IsInvalidArgument},
	} {
		got, err := checkPrefix(tc.path, access.User("", tc.uid))
		if tc.ok == nil && (err != nil || got != tc.path) || tc.ok != nil && !tc.ok(err) {
			t.Errorf("%s for %d: %q, %v", tc.path, tc.uid, got, err)
		}
	}
	remote := access.User("", 1000).AsAdmin()
	remote.Remote = "192.0.2.1:999"
	if _, err := checkPrefix(root, remote); !errdefs.IsPermissionDenied(err) {
		t.Errorf("for a caller of another host: %v", err)
	}
}
