package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// MinSize is the smallest image that mkfs.xfs accepts, in bytes.
const MinSize = 300 << 20

// keepFree is what an image of automatic size leaves to the filesystem that
// holds it, in bytes: a fifth of what is free there, but at least this. A loop
// device whose file cannot grow fails writes, and XFS then shuts down.
const keepFree = 2 << 30

// makeImage makes the image under another name and renames it when it is
// whole, so that an image under its own name is always one.
func makeImage(ctx context.Context, opts Options) (err error) {
	if opts.Image == "" {
		return fmt.Errorf("no image configured: %w", errdefs.ErrFailedPrecondition)
	}
	mkfs, err := findMkfs(opts.Mkfs)
	if err != nil {
		return err
	}
	dir := filepath.Dir(opts.Image)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	size := opts.Size
	if size == 0 {
		if size, err = autoSize(dir); err != nil {
			return err
		}
	}

	part := opts.Image + ".part"
	if err := makeSparse(part, size); err != nil {
		return fmt.Errorf("make image %s: %w", part, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeIfExists(part))
		}
	}()
	if err := opts.step("mkfs"); err != nil {
		return err
	}
	if err := format(ctx, mkfs, part); err != nil {
		return err
	}
	if err := opts.step("rename"); err != nil {
		return err
	}
	if err := os.Rename(part, opts.Image); err != nil {
		return err
	}
	return fsync(dir)
}

// findMkfs looks in the sbin directories too, because PATH often lacks them.
func findMkfs(path string) (string, error) {
	candidates := []string{path}
	if path == "" {
		candidates = []string{"mkfs.xfs", "/usr/sbin/mkfs.xfs", "/sbin/mkfs.xfs"}
	}
	for _, c := range candidates {
		if found, err := exec.LookPath(c); err == nil {
			return found, nil
		}
	}
	return "", snapshot.WithHint(
		fmt.Errorf("make image: no %s: %w", candidates[0], errdefs.ErrFailedPrecondition),
		"install xfsprogs")
}

// autoSize chooses the size of a new image in dir.
func autoSize(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("stat filesystem of %s: %w", dir, err)
	}
	free := int64(st.Bavail) * st.Bsize
	size := sizeFor(free)
	if size < MinSize {
		return 0, snapshot.WithHint(
			fmt.Errorf("make image in %s: %d MiB free: %w", dir, free>>20, errdefs.ErrResourceExhausted),
			fmt.Sprintf("free %d MiB, or give the storage a size", (MinSize+keepFree)>>20))
	}
	return size, nil
}

// sizeFor returns the size of an image on a filesystem with free bytes, in
// whole MiB.
func sizeFor(free int64) int64 {
	return (free - max(free/5, keepFree)) &^ (1<<20 - 1)
}

// makeSparse makes an empty file of size bytes in place of what a crash left.
func makeSparse(path string, size int64) error {
	if err := removeIfExists(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// format makes the filesystem and syncs it. Sectors of 4 KiB let the loop
// device write past the page cache on any disk. The reverse mapping tree is
// left out: each extent that a clone shares or breaks would update it.
func format(ctx context.Context, mkfs, path string) error {
	cmd := exec.CommandContext(ctx, mkfs, "-q", "-m", "reflink=1,rmapbt=0", "-s", "size=4096", "-L", "ctrsnap", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run mkfs.xfs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return fsync(path)
}

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
