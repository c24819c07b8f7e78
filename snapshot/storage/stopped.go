package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// releaseTimeout is how long a device is waited for whose filesystem has stopped.
const releaseTimeout = 30 * time.Second

// IsStopped says whether the image is mounted at dir by a filesystem that does nothing any more: XFS shuts down when
// its device fails or goes, and answers with EIO from then on. Open mounts it anew when nobody uses it any more;
// whoever has processes there is to end them first.
func IsStopped(dir, image string) bool {
	dir, source := mountOf(dir, image)
	return source != "" && stopped(dir)
}

// Alive says with EIO that the filesystem has stopped.
func (s *Storage) Alive() error {
	if !stopped(s.dir) {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("the filesystem at %s has stopped: %w", s.dir, unix.EIO),
		"its disk has failed or gone: see dmesg, mend it, and restart ctrsnapd, which mounts the storage anew; clones end, goldens stay")
}

// mountOf returns the real path of dir and the device by which the image is mounted there, or "". Nothing is asked of
// what is mounted.
func mountOf(dir, image string) (path, source string) {
	parent, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return dir, ""
	}
	path = filepath.Join(parent, filepath.Base(dir))
	m, err := mountAt(path)
	if err != nil || m == nil || !backs(m.Source, image) {
		return path, ""
	}
	return path, m.Source
}

// stopped reads the directory: what is in the page cache can be read of a filesystem that has stopped, too.
func stopped(dir string) bool {
	_, err := os.ReadDir(dir)
	return errors.Is(err, unix.EIO)
}

// releaseStopped takes a filesystem away that has stopped, if there is one.
func releaseStopped(ctx context.Context, opts Options) error {
	dir, source := mountOf(opts.Dir, opts.Image)
	if source == "" || !stopped(dir) {
		return nil
	}
	return release(ctx, dir, source, opts.Image)
}

// release takes a filesystem that has stopped away. Its device goes with its last user: by another one, XFS would
// take the filesystem for a copy.
func release(ctx context.Context, dir, dev, image string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the filesystem that has stopped: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for backs(dev, image) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return snapshot.WithHint(
				fmt.Errorf("the filesystem at %s has stopped, and somebody uses it still: %w", dir, errdefs.ErrUnavailable),
				"end what works in there (fuser -vm "+dev+"), or restart the host")
		}
	}
	return nil
}
