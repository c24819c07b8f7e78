package storage

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// probe says whether files in dir can share extents. It clones a file, because
// no name or magic of a filesystem tells: XFS can be made without reflink. The
// files have no names (O_TMPFILE), so that none can be left behind; a
// filesystem that lacks those cannot hold the upper layer of an overlay well.
// See open(2), ioctl_ficlone(2).
func probe(dir string) (bool, error) {
	src, err := tmpfile(dir)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("probe %s: %w", dir, err)
	}
	defer src.Close()
	dst, err := tmpfile(dir)
	if err != nil {
		return false, fmt.Errorf("probe %s: %w", dir, err)
	}
	defer dst.Close()
	if _, err := src.Write(make([]byte, 64<<10)); err != nil {
		return false, fmt.Errorf("probe %s: %w", dir, err)
	}
	err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if err != nil && !cannotClone(err) {
		return false, fmt.Errorf("probe %s: %w", dir, err)
	}
	return err == nil, nil
}

func tmpfile(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
}

// cannotClone tells "these files cannot share extents" from an accident.
func cannotClone(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) ||
		errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS)
}

// Reflink makes the new file dst with the content and permissions of the file
// src, sharing its extents where the filesystem can and copying them where it
// cannot. It does not sync. An error leaves no dst, unless dst existed.
func Reflink(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("reflink %s: %w", src, err)
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return fmt.Errorf("reflink %s: %w", src, err)
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fi.Mode().Perm())
	if err != nil {
		return fmt.Errorf("reflink %s: %w", src, err)
	}
	err = errors.Join(cloneOrCopy(out, in), out.Chmod(fi.Mode().Perm()), out.Close())
	if err != nil {
		return fmt.Errorf("reflink %s to %s: %w", src, dst, errors.Join(err, os.Remove(dst)))
	}
	return nil
}

func cloneOrCopy(out, in *os.File) error {
	err := unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
	if err == nil || !cannotClone(err) {
		return err
	}
	_, err = io.Copy(out, in)
	return err
}

// SyncFS writes all that was written on the filesystem of path to the disk, the
// one below a loop image included, and reports errors of earlier writes. See
// syncfs(2).
func SyncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync filesystem: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync filesystem of %s: %w", path, err)
	}
	return nil
}
