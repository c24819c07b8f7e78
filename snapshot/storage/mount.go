package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// mountAt returns the uppermost mount at dir, or nil.
func mountAt(dir string) (*mountinfo.Info, error) {
	ms, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	if len(ms) == 0 {
		return nil, nil
	}
	return ms[len(ms)-1], nil
}

// openImage attaches and mounts the image, which is whole, at dir.
func openImage(ctx context.Context, dir string, opts Options) (*Storage, error) {
	empty, err := isEmpty(dir)
	if err != nil {
		return nil, err
	}
	if !empty {
		return nil, snapshot.WithHint(
			fmt.Errorf("%s is to be mounted here, but the directory holds files: %w", opts.Image, errdefs.ErrFailedPrecondition),
			"move the files away, or the image if they are what you want")
	}
	if err := opts.step("attach"); err != nil {
		return nil, err
	}
	dev, err := attach(opts.Image)
	if err != nil {
		return nil, err
	}
	// From here on the mount holds the device; without one it is freed.
	defer dev.Close()
	if err := opts.step("mount"); err != nil {
		return nil, err
	}
	if err := mountXFS(dev.Name(), dir); err != nil {
		return nil, err
	}
	s := &Storage{dir: dir, image: opts.Image, reflink: true}
	if err := s.settle(ctx, opts); err != nil {
		return nil, errors.Join(err, unix.Unmount(dir, 0))
	}
	return s, nil
}

// settle does what is due after a mount: growth, also one that a crash
// interrupted, and giving back what was freed without a discard.
func (s *Storage) settle(ctx context.Context, opts Options) error {
	if err := opts.step("grow"); err != nil {
		return err
	}
	if err := s.growTo(ctx, opts.Size, opts.step); err != nil {
		return err
	}
	_, err := s.Trim()
	return err
}

// mountFlags are those of the storage: what is in it was made by others.
const mountFlags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID

// mountXFS mounts with online discard: see DESIGN.md for its price.
func mountXFS(dev, dir string) error {
	err := unix.Mount(dev, dir, "xfs", mountFlags, "discard")
	switch {
	case errors.Is(err, unix.ENODEV):
		return snapshot.WithHint(
			fmt.Errorf("mount %s: the kernel has no XFS: %w", dev, errdefs.ErrFailedPrecondition),
			"load the kernel module 'xfs'")
	case err != nil:
		return snapshot.WithHint(
			fmt.Errorf("mount %s at %s: %w", dev, dir, err),
			"the kernel's log (dmesg) says why; xfs_repair mends a damaged image")
	}
	return nil
}

// Unmount unmounts the image and detaches its loop device. The image stays. It
// does nothing to a filesystem that is not ours, and is idempotent. While
// something below Dir is in use it waits, for a process that was killed or a
// collection that ends may hold it still; then it fails with FailedPrecondition.
func (s *Storage) Unmount(ctx context.Context) error {
	if s.image == "" {
		return nil
	}
	m, err := mountAt(s.dir)
	if err != nil || m == nil || !backs(m.Source, s.image) {
		return err
	}
	err = s.unmountFree(ctx)
	if errors.Is(err, unix.EBUSY) {
		return snapshot.WithHint(
			fmt.Errorf("unmount storage %s: in use: %w", s.dir, errdefs.ErrFailedPrecondition),
			"remove the clones and stop what works in there (fuser -vm "+s.dir+")")
	}
	if err != nil {
		return fmt.Errorf("unmount storage %s: %w", s.dir, err)
	}
	return s.waitDetached(ctx, m.Source)
}

// unmountFree unmounts as soon as nobody uses the filesystem. It gives up with
// EBUSY.
func (s *Storage) unmountFree(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		err := unix.Unmount(s.dir, 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// waitDetached waits for autoclear, which a passing reader of the device (udev's
// blkid) can delay, and then insists.
func (s *Storage) waitDetached(ctx context.Context, dev string) error {
	deadline := time.Now().Add(time.Second)
	for backs(dev, s.image) {
		if time.Now().After(deadline) {
			return detach(dev)
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), detach(dev))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// open returns the root directory of the mounted filesystem, for ioctls.
func (s *Storage) open() (*os.File, error) {
	return os.OpenFile(s.dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
}
