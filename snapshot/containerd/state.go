package containerd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountState has dir, a State to be, lie in memory, as all of /run does on most
// hosts. containerd syncs files there each time that it makes or deletes a task
// (bootstrap.json, the mount manager's database): on a disk, a clone would wait
// 3 to 4 ms for that. It mounts a tmpfs, unless dir lies on one or holds what
// containers live by. It is to be called before Start.
func MountState(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at filesystem of %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || fs.Type == unix.TMPFS_MAGIC || len(entries) > 0 {
		return err
	}
	if err := unix.Mount("ctrsnap", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0711,size=10%"); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// UnmountState undoes MountState. Tasks do not outlive it. It is no error if
// nothing is mounted there.
func UnmountState(dir string) error {
	// Bundles whose shims are about to end may be in use still.
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
