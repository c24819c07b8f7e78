package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// TestSpace keeps free what it is told to, else a twentieth and at most ten GiB.
func TestSpace(t *testing.T) {
	s, err := storage.At(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Space(s, 0)
	if err != nil || got.Reserve != min(got.Size/20, 10<<30) || got.Size <= 0 || got.Free > got.Size {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = Space(s, 42); err != nil || got.Reserve != 42 {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.RemoveAll(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if got, err := Space(s, 0); err == nil {
		t.Errorf("of no directory: %+v", got)
	}
}

// TestOpenStorageAfterAStop forgets what was not synced once, when an earlier start has noted that it is lost: also if
// that one was killed.
func TestOpenStorageAfterAStop(t *testing.T) {
	dir := t.TempDir()
	lost, boot := filepath.Join(dir, "lost"), filepath.Join(dir, "storage/checkpoint/boot")
	makeDirs(t, filepath.Dir(boot))
	open := func() {
		t.Helper()
		end := func(context.Context) error { return errors.New("nothing has stopped") }
		if _, err := OpenStorage(t.Context(), storage.Options{Dir: filepath.Join(dir, "storage"), AllowPlain: true}, lost, end, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }
	write := func(path string) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(boot)
	if open(); !exists(boot) {
		t.Error("a storage that has not stopped is taken for one that has")
	}
	write(lost)
	if open(); exists(boot) || exists(lost) {
		t.Errorf("after a stop: boot %t, lost %t", exists(boot), exists(lost))
	}
	write(lost)
	if open(); exists(lost) {
		t.Error("it goes on being lost without a checkpoint")
	}
}

// TestRunDirs mounts a filesystem for clones and one for builds, once, and none over what is there.
func TestRunDirs(t *testing.T) {
	needRoot(t)
	d := Dirs{State: t.TempDir()}
	clones, builds := filepath.Join(d.State, "clones"), filepath.Join(d.State, "builds")
	t.Cleanup(func() { _ = unix.Unmount(clones, 0); _ = unix.Unmount(builds, 0) })
	device := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Dev
	}
	kept := filepath.Join(builds, "kept")
	makeDirs(t, kept)
	if err := d.MountRunDirs(); err != nil {
		t.Fatal(err)
	}
	first := device(clones)
	if first == device(d.State) || device(builds) != device(d.State) {
		t.Errorf("clones on %d, builds, of which there is one, on %d, and the state directory on %d", first, device(builds), device(d.State))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(clones, &st); err != nil || int64(st.Blocks)*st.Bsize != 128<<20 || st.Files != 128<<10 {
		t.Errorf("it has %d bytes and %d inodes, %v", int64(st.Blocks)*st.Bsize, st.Files, err)
	}
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	if err := d.MountRunDirs(); err != nil || device(clones) != first || device(builds) == device(d.State) {
		t.Errorf("a second time: %v", err)
	}
	for range 2 {
		if err := d.UnmountRunDirs(); err != nil {
			t.Fatal(err)
		}
	}
	if device(clones) != device(d.State) || device(builds) != device(d.State) {
		t.Error("they stay mounted")
	}
}

// TestEndAll unmounts what clones have, and nothing else.
func TestEndAll(t *testing.T) {
	needRoot(t)
	d := Dirs{State: t.TempDir()}
	var paths []string
	for _, name := range []string{"containerd/task/c00000000000/rootfs", "containerd/other", "clones/c00000000000"} {
		path := filepath.Join(d.State, name)
		makeDirs(t, path)
		if err := unix.Mount("none", path, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
		paths = append(paths, path)
	}
	r := containerd.New(nil, containerd.Options{CgroupPath: "/" + filepath.Base(d.State)})
	if err := d.EndAll(t.Context(), r, filepath.Join(d.State, "containerd.sock")); err != nil {
		t.Fatal(err)
	}
	for i, path := range paths {
		err := unix.Unmount(path, unix.MNT_DETACH)
		if want := []bool{false, true, true}[i]; (err == nil) != want {
			t.Errorf("%s was mounted %t, want %t", path, err == nil, want)
		}
	}
}
