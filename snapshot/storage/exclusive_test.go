package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReflinkAndExclusive(t *testing.T) {
	t.Run("xfs", func(t *testing.T) { testReflinkAndExclusive(t, mustOpen(t, testOptions(t)).Dir()) })
	t.Run("btrfs", func(t *testing.T) { testReflinkAndExclusive(t, openBtrfs(t).Dir()) })
}

// openBtrfs returns a storage on a Btrfs that is there already.
func openBtrfs(t *testing.T) *Storage {
	t.Helper()
	opts := testOptions(t)
	mkfs, err := exec.LookPath("mkfs.btrfs")
	if err != nil {
		t.Skip("needs mkfs.btrfs")
	}
	if err := makeSparse(opts.Image, 1<<30); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", opts.Image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dev, err := attach(opts.Image)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	dir := filepath.Join(filepath.Dir(opts.Dir), "btrfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dev.Name(), dir, "btrfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := mustOpen(t, Options{Dir: filepath.Join(dir, "storage"), Image: opts.Image + ".unused"})
	if i := mustInfo(t, s); i.Filesystem != "btrfs" || !i.Reflink {
		t.Fatalf("info %+v", i)
	}
	return s
}

func testReflinkAndExclusive(t *testing.T, root string) {
	golden, clone := filepath.Join(root, "golden"), filepath.Join(root, "clone")
	for _, d := range []string{golden, clone, filepath.Join(clone, "sub")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	src, dst := filepath.Join(golden, "f"), filepath.Join(clone, "sub", "f")
	want := writeRandom(t, src, 8*mib)
	if err := Reflink(dst, src); err != nil {
		t.Fatal(err)
	}
	checkExclusive(t, clone, 0)
	if err := Reflink(dst, src); !errors.Is(err, os.ErrExist) {
		t.Errorf("reflink over a file: %v", err)
	}
	if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the clone differs: %v", err)
	}
	if fi, err := os.Stat(dst); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}

	f, err := os.OpenFile(dst, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 256<<10), mib)
	if err := errors.Join(err, f.Close(), SyncFS(root)); err != nil {
		t.Fatal(err)
	}
	checkExclusive(t, clone, 256<<10)
	// Btrfs counts references to whole extents: the golden's is still shared.
	if filepath.Base(filepath.Dir(root)) != "btrfs" {
		checkExclusive(t, golden, 256<<10)
	}

	// More names, other kinds of files and a way out count nothing.
	for _, err := range []error{
		os.Link(dst, filepath.Join(clone, "second")),
		os.Symlink(golden, filepath.Join(clone, "out")),
		unix.Mkfifo(filepath.Join(clone, "fifo"), 0o600),
		unix.Mknod(filepath.Join(clone, "whiteout"), unix.S_IFCHR, 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	checkExclusive(t, clone, 256<<10)
	if err := os.WriteFile(filepath.Join(clone, "own"), make([]byte, mib), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := SyncFS(root); err != nil {
		t.Fatal(err)
	}
	checkExclusive(t, clone, mib+256<<10)
}

func checkExclusive(t *testing.T, dir string, want int64) {
	t.Helper()
	got, err := Exclusive(t.Context(), dir)
	if err != nil || got != want {
		t.Errorf("%s holds %d bytes alone (%v), want %d", filepath.Base(dir), got, err, want)
	}
}

// TestExclusiveManyExtents needs more than one FIEMAP call per file.
func TestExclusiveManyExtents(t *testing.T) {
	s := mustOpen(t, testOptions(t))
	dir := filepath.Join(s.Dir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const n = 2*extentsPerCall + 7
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(n) {
		if err := unix.Fallocate(int(f.Fd()), 0, i*8192, 4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	checkExclusive(t, dir, n*4096)
}

func TestExclusiveWithoutReflinks(t *testing.T) {
	dir := t.TempDir()
	writeRandom(t, filepath.Join(dir, "f"), mib)
	got, err := Exclusive(t.Context(), dir)
	if err != nil || got < mib || got > 2*mib {
		t.Errorf("%d bytes, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Exclusive(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := Exclusive(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestReflinkFallsBackToCopy(t *testing.T) {
	dir := t.TempDir()
	want := writeRandom(t, filepath.Join(dir, "a"), 3*mib)
	if err := Reflink(filepath.Join(dir, "b"), filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "b")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("copy differs: %v", err)
	}
}

// BenchmarkExclusive measures a clone with 1,000 small files.
func BenchmarkExclusive(b *testing.B) {
	dir := b.TempDir()
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 8192), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Exclusive(b.Context(), dir); err != nil {
			b.Fatal(err)
		}
	}
}
