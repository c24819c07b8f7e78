package foreign

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// As runs fn, which opens and looks at files, with the rights of a user of the host: where they may not, it may not, though this
// process is root's. Its groups are the primary one first. What fn opens stays open; other goroutines have the rights that
// they had, those that fn starts too.
//
// It is a thread of its own that becomes the user (setfsuid(2), which takes the capabilities to pass over modes along) and ends.
func As(uid int, groups []int, fn func() error) error {
	if uid == os.Geteuid() {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The runtime cannot end the first thread of the process: it would be the user's for ever. As long as it is held
			// here, others get another one.
			defer runtime.UnlockOSThread()
			done <- As(uid, groups, fn)
			return
		}
		err := become(uid, groups)
		if err == nil {
			err = fn()
		}
		done <- err // the runtime ends a thread whose goroutine ends without unlocking it
	}()
	return <-done
}

// become changes this thread's rights to files, by the calls themselves: those of package syscall are for all threads.
func become(uid int, groups []int) error {
	if uid <= 0 || uid >= 1<<32-1 || len(groups) == 0 {
		return fmt.Errorf("read files as user %d in groups %d: %w", uid, groups, unix.EINVAL)
	}
	list := make([]uint32, len(groups))
	for i, g := range groups {
		list[i] = uint32(g)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(list)), uintptr(unsafe.Pointer(&list[0])), 0); errno != 0 {
		return os.NewSyscallError("setgroups", errno)
	}
	for _, c := range []struct {
		name string
		nr   uintptr
		id   uint32
	}{{"setfsgid", unix.SYS_SETFSGID, list[0]}, {"setfsuid", unix.SYS_SETFSUID, uint32(uid)}} {
		_, _, _ = unix.RawSyscall(c.nr, uintptr(c.id), 0, 0)
		// It returns what was, whatever became of it; an impossible id changes nothing.
		if now, _, _ := unix.RawSyscall(c.nr, ^uintptr(0), 0, 0); uint32(now) != c.id {
			return os.NewSyscallError(c.name, unix.EPERM)
		}
	}
	return nil
}

// OpenSource opens a regular file of this host for reading, by a path without any symbolic link: whoever may change one of its
// directories cannot have another file opened.
func OpenSource(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open without following links", Path: path, Err: err}
	}
	at := os.NewFile(uintptr(fd), path)
	defer at.Close()
	return Reopen(at, os.O_RDONLY)
}
