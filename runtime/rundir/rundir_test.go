package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const alice, bob = 51001, 51002

// newDirs are directories that everybody may get to.
func newDirs(t *testing.T) Dirs {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	base, err := os.MkdirTemp("/tmp", "rundir-") //nolint:usetesting // t.TempDir is root's alone
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	must(t, os.Chmod(base, 0o711))
	d := Dirs{Path: filepath.Join(base, "clones")}
	must(t, d.Open())
	return d
}

// TestAdmit: who is let in passes and connects, and changes nothing; all others stay outside.
func TestAdmit(t *testing.T) {
	d := newDirs(t)
	must(t, d.Make("c1"))
	defer func() { must(t, d.Remove("c1")) }()
	must(t, os.WriteFile(filepath.Join(d.Sockets("c1"), "socket"), nil, 0o666))
	reach := func() error { _, err := os.Stat(filepath.Join(d.Sockets("c1"), "socket")); return err }
	for _, uid := range []int{alice, bob} {
		if err := as(uid, reach); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%d before anybody is let in: %v", uid, err)
		}
	}
	must(t, d.Admit("c1", bob))
	must(t, os.Lchown(d.Dir("c1"), alice, -1)) // as of an earlier release
	must(t, d.Admit("c1", alice))
	if err := as(alice, reach); err != nil {
		t.Errorf("who was let in: %v", err)
	}
	if err := as(bob, reach); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("who is not let in any more: %v", err)
	}
	for what, do := range map[string]func() error{
		"rename":         func() error { return os.Rename(d.Sockets("c1"), d.Dir("c1")+"/o") },
		"link":           func() error { return os.Symlink("/", d.Dir("c1")+"/o") },
		"list":           func() error { _, err := os.ReadDir(d.Dir("c1")); return err },
		"list sockets":   func() error { _, err := os.ReadDir(d.Sockets("c1")); return err },
		"change mode":    func() error { return os.Chmod(d.Dir("c1"), 0o777) },
		"change list":    func() error { return unix.Setxattr(d.Dir("c1"), "system.posix_acl_access", acl(bob), 0) },
		"make socket":    func() error { return os.WriteFile(d.Sockets("c1")+"/x", nil, 0o600) },
		"remove sockets": func() error { return os.Remove(d.Sockets("c1")) },
	} {
		if err := as(alice, do); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRoom: a server's directory holds little, whatever the others hold, and no device.
func TestRoom(t *testing.T) {
	d := newDirs(t)
	for _, id := range []string{"c1", "c2"} {
		must(t, d.Make(id))
		must(t, d.Admit(id, alice))
		must(t, os.Lchown(d.Sockets(id), alice, alice))
		defer func() { must(t, d.Remove(id)) }()
	}
	file := func(id string, i int) string { return filepath.Join(d.Sockets(id), fmt.Sprint(i)) }
	err := as(alice, func() error { return os.WriteFile(file("c1", 0), make([]byte, 2<<20), 0o600) })
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("2 MiB: %v", err)
	}
	must(t, os.Remove(file("c1", 0)))
	made := 0
	for err = nil; err == nil && made < 1000; made++ {
		err = as(alice, func() error { return os.WriteFile(file("c1", made), nil, 0o600) })
	}
	if !errors.Is(err, unix.ENOSPC) || made < 8 || made > 64 {
		t.Errorf("%d files: %v", made, err)
	}
	must(t, as(alice, func() error { return os.WriteFile(file("c2", 0), make([]byte, 64<<10), 0o600) }))
	must(t, unix.Mknod(file("c2", 1), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	if _, err := os.Open(file("c2", 1)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("device: %v", err)
	}
}

// TestRemove leaves no mount, is idempotent, removes what an earlier release has made, and goes through no link.
func TestRemove(t *testing.T) {
	d := newDirs(t)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Mkdir(outside, 0o700))
	must(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o600))
	must(t, d.Make("c1"))
	must(t, os.Symlink(outside, filepath.Join(d.Sockets("c1"), "link")))
	must(t, os.MkdirAll(d.Dir("old"), 0o700))
	must(t, os.Symlink(outside, d.Sockets("old")))
	if ids, err := d.IDs(); err != nil || !slices.Equal(ids, []string{"c1", "old"}) {
		t.Errorf("ids: %q, %v", ids, err)
	}
	for _, id := range []string{"c1", "old", "none", "c1"} {
		must(t, d.Remove(id))
	}
	if ids, err := d.IDs(); err != nil || len(ids) > 0 {
		t.Errorf("left: %q, %v", ids, err)
	}
	if _, err := os.Stat(filepath.Join(outside, "file")); err != nil {
		t.Error(err)
	}
	if table, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(table), d.Path) {
		t.Errorf("mounts left: %v", err)
	}
}

// TestAdmitWithoutLists refuses where the filesystem has no lists.
func TestAdmitWithoutLists(t *testing.T) {
	d := newDirs(t)
	must(t, unix.Mount("none", d.Path, "ramfs", 0, "")) // it has none
	defer func() { must(t, unix.Unmount(d.Path, unix.MNT_DETACH)) }()
	must(t, os.Mkdir(d.Dir("c1"), 0o700))
	if err := d.Admit("c1", alice); err == nil || !strings.Contains(err.Error(), "access control lists") {
		t.Errorf("without lists: %v", err)
	}
	if st, err := os.Stat(d.Dir("c1")); err != nil || st.Mode().Perm() != 0o700 || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("it is open: %v, %v", st, err)
	}
}

// as runs fn with the rights of another user. The thread ends with the goroutine.
func as(uid int, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		for _, call := range []uintptr{unix.SYS_SETGROUPS, unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of this thread only
			args := [3]uintptr{uintptr(uid), uintptr(uid), uintptr(uid)}
			if call == unix.SYS_SETGROUPS {
				args = [3]uintptr{}
			}
			if _, _, errno := unix.RawSyscall(call, args[0], args[1], args[2]); errno != 0 {
				done <- errno
				return
			}
		}
		done <- fn()
	}()
	return <-done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
