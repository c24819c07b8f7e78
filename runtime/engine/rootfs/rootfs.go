// Package rootfs reaches into the root filesystem of a container, which is
// not trusted: every path is resolved as the container would resolve it, by
// openat2(2) with RESOLVE_IN_ROOT, so that no symlink leads out of it.
package rootfs

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// Root is a root filesystem. It is safe for concurrent use; Close ends it.
type Root struct{ f *os.File }

// Open opens the root filesystem that is mounted at dir, or /proc/PID/root.
func Open(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return &Root{os.NewFile(uintptr(fd), dir)}, nil
}

// Edit runs fn on the root filesystem that a workbench has under construction. root is its
// method.
func Edit(ctx context.Context, root func(context.Context, func(dir string) error) error, fn func(*Root) error) error {
	return root(ctx, func(dir string) error {
		r, err := Open(dir)
		if err != nil {
			return err
		}
		defer r.Close()
		return fn(r)
	})
}

// Close releases what Open took.
func (r *Root) Close() { r.f.Close() }

// Handle returns a file that stands for what is at name, an absolute path in the root filesystem, and is not open for
// anything: see O_PATH of open(2), and [foreign.Reopen].
func (r *Root) Handle(name string) (*os.File, error) { return r.open(name, unix.O_PATH) }

// maxTries bounds how often a path is resolved anew when something is renamed meanwhile: see EAGAIN of openat2(2).
const maxTries = 100

func (r *Root) open(name string, flags int) (f *os.File, err error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for range maxTries {
		var fd int
		fd, err = unix.Openat2(int(r.f.Fd()), name, &how)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return nil, &os.PathError{Op: "open", Path: name, Err: err}
}

// Dir opens a directory as an os.Root, for all that is done below it. Files there are opened by package foreign.
func (r *Root) Dir(name string) (*os.Root, error) {
	f, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return os.OpenRoot(foreign.Path(f))
}

// File opens a regular file for reading. Anything else is an error.
func (r *Root) File(name string) (*os.File, error) {
	at, err := r.Handle(name)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return foreign.Reopen(at, os.O_RDONLY)
}

// ReadFile reads a regular file of at most limit bytes; what is beyond is cut.
func (r *Root) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := r.File(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// IsFile says whether name is a regular file.
func (r *Root) IsFile(name string) bool {
	f, err := r.File(name)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// List returns the names in a directory, unsorted; none if it cannot be read.
func (r *Root) List(name string) []string {
	f, err := r.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(-1) // what was read counts
	return names
}

// MkdirAll makes a directory and those above it that are missing. Those that
// it makes get mode and owner; one that is there stays as it is.
func (r *Root) MkdirAll(name string, mode os.FileMode, uid, gid int) error {
	name = path.Clean("/" + name)
	if f, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY); err == nil {
		return f.Close()
	} else if !os.IsNotExist(err) {
		return err
	}
	if err := r.MkdirAll(path.Dir(name), mode|0o055, 0, 0); err != nil {
		return err
	}
	dir, err := r.Dir(path.Dir(name))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	base := filepath.Base(name)
	if err := dir.Mkdir(base, mode); err != nil {
		return err
	}
	if err := dir.Chmod(base, mode); err != nil { // umask
		return err
	}
	return dir.Chown(base, uid, gid)
}
