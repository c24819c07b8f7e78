package containerd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MountState has dir, a State or a directory of which it is one, lie in memory, as
// all of /run does on most hosts. On a disk a clone would wait for it: 3 to 4 ms
// for what containerd syncs there each time that it makes or deletes a task
// (bootstrap.json, the mount manager's database), and as much CPU time again for
// inodes that are made and removed all the time. It mounts a tmpfs, unless dir
// lies on one or holds what containers live by. mode is dir's if it was not there,
// and the tmpfs's. It is to be called before Start.
func MountState(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	// Of two that come at once the second finds what the first has mounted.
	below, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer below.Close()
	if err := unix.Flock(int(below.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at filesystem of %s: %w", dir, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || fs.Type == unix.TMPFS_MAGIC || len(entries) > 0 {
		return err
	}
	return MountMemory(dir, fmt.Sprintf("mode=%#o,size=10%%", mode))
}

// MountMemory mounts a tmpfs at dir, with options as in tmpfs(5), for what is void
// after a reboot. No programs are to be run from there.
func MountMemory(dir, options string) error {
	if err := unix.Mount("ctrsnap", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// UnmountState undoes MountState and MountMemory. Tasks do not outlive it. It is no error if
// nothing is mounted there.
func UnmountState(dir string) error {
	// Bundles whose shims are about to end may be in use still.
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}
