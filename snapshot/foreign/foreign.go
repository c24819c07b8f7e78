// Package foreign opens files of trees that somebody else has filled: layers of images, goldens, disks of clones, uploads.
// Whoever filled one may be hostile, and may be at work while it is read.
//
// Names are below an [os.Root], so that no link leads out of the tree. Nothing is opened but directories and regular
// files: a device is not touched, and a FIFO blocks nobody. What opens no file (Mkdir, Rename, Remove, Chown …) is left
// to the methods of os.Root.
package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Open opens a regular file for reading. Anything else, a symbolic link among it, is InvalidArgument.
func Open(root *os.Root, name string) (*os.File, error) { return open(root, name, os.O_RDONLY) }

func open(root *os.Root, name string, flags int) (*os.File, error) {
	at, err := Handle(root, name)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return Reopen(at, flags)
}

// OpenPath is Open for a file of this host, at the end of whatever links path passes.
func OpenPath(path string) (*os.File, error) {
	at, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	return Reopen(at, os.O_RDONLY)
}

// Handle returns a file that stands for what is at name, be it a link, and is not open for anything: see O_PATH of
// open(2).
func Handle(root *os.Root, name string) (*os.File, error) {
	return root.OpenFile(name, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// Reopen opens what a handle stands for with the flags of open(2), if it is a regular file. The handle stays open.
func Reopen(at *os.File, flags int) (*os.File, error) {
	info, err := at.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, wrong(at.Name(), info.Mode())
	}
	// A file can have a lease, which would make us wait: O_NONBLOCK.
	fd, err := unix.Open(Path(at), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: at.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), at.Name()), nil
}

// Path returns a path of an open file, or of a handle, that names it while it is open, whatever is renamed meanwhile.
func Path(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// ReadFile reads a regular file. One that has more than limit bytes is InvalidArgument.
func ReadFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := Open(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, limit, errdefs.ErrInvalidArgument)
	}
	return text, err
}

// Create makes a file. What exists is left alone: an error of fs.ErrExist.
func Create(root *os.Root, name string, perm fs.FileMode) (*os.File, error) {
	return root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}

// WriteFile writes a file, which is made, or is a regular one and emptied first.
func WriteFile(root *os.Root, name string, data []byte, perm fs.FileMode) error {
	f, err := Create(root, name, perm)
	if errors.Is(err, fs.ErrExist) {
		f, err = open(root, name, os.O_WRONLY|os.O_TRUNC)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// wrong says what is in place of a regular file.
func wrong(name string, mode fs.FileMode) error {
	return fmt.Errorf("%s is a %s, not a regular file: %w", name, kind(mode), errdefs.ErrInvalidArgument)
}

func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "directory"
	case fs.ModeSymlink:
		return "symbolic link"
	case fs.ModeNamedPipe:
		return "FIFO"
	case fs.ModeSocket:
		return "socket"
	case fs.ModeDevice:
		return "block device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "character device"
	}
	return "file of an unknown kind"
}
