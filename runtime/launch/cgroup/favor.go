package cgroup

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FavorMoves tells the kernel that processes move between cgroups often. With
// version 1, where a child cannot be born in its cgroup, this makes a move cost a
// tenth of a millisecond in place of the ten of a grace period. It holds for the
// whole host, and since Linux 6.18 until it is booted again; forks and exits cost
// a little more. It does nothing on a host with version 2 only, and fails on one without a
// unified hierarchy. See favordynmods in https://docs.kernel.org/admin-guide/cgroup-v2.html.
func (h *Host) FavorMoves() error {
	if h.unified {
		return nil
	}
	dir := filepath.Join(h.root, "unified")
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // of what was only looked at
	fs, err := unix.Fspick(fd, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("fspick", err)
	}
	defer unix.Close(fs) //nolint:errcheck // of what was only looked at
	if err := unix.FsconfigSetFlag(fs, "favordynmods"); err != nil {
		return fmt.Errorf("favor moves between cgroups: %w", err)
	}
	return os.NewSyscallError("reconfigure cgroup2", unix.FsconfigReconfigure(fs))
}
