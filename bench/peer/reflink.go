package peer

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Reflink copies the tree at src to dst, which must not exist, on the same
// filesystem: the files share their blocks (ioctl_ficlone(2)), owners and
// modes are kept. A filesystem that cannot share is an error: a copy would be
// no fair rival.
func Reflink(src, dst string) error {
	return filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return reflinkEntry(path, filepath.Join(dst, rel), info)
	})
}

func reflinkEntry(src, dst string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("copy %s: no owner", src)
	}
	var err error
	switch info.Mode().Type() {
	case fs.ModeDir:
		err = os.Mkdir(dst, info.Mode().Perm())
	case fs.ModeSymlink:
		var target string
		if target, err = os.Readlink(src); err == nil {
			err = os.Symlink(target, dst)
		}
	case 0:
		err = reflinkFile(src, dst, info.Mode().Perm())
	default: // a socket that is left: nobody needs it
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", src, err)
	}
	return os.Lchown(dst, int(stat.Uid), int(stat.Gid))
}

func reflinkFile(src, dst string, mode fs.FileMode) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd())); err != nil {
		out.Close()
		return os.NewSyscallError("ioctl_ficlone", err)
	}
	return out.Close()
}
