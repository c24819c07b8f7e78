package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Info describes an open storage. Sizes are in bytes.
type Info struct {
	Dir        string
	Filesystem string // "xfs", "btrfs", "ext4"; a magic number in hex if unknown
	Reflink    bool
	Size, Free int64  // of the filesystem
	Warning    string // why the storage is not what it should be, or ""

	// The rest is of a loop image and zero without one.
	Image      string
	LoopDevice string // "/dev/loop3"
	DirectIO   bool   // the loop device bypasses the page cache
	ImageSize  int64  // how large the image can become
	ImageUsed  int64  // what it takes of the host's disk now
	HostFree   int64  // free where the image lies
}

// Available returns how many bytes can be written. Of a sparse image, what it has not taken of the host's disk yet is
// free only while that has it.
func (i Info) Available() int64 {
	if i.Image == "" {
		return i.Free
	}
	taken := max(0, i.ImageUsed-(i.Size-i.Free)) // of the image, free inside
	return min(i.Free, i.HostFree+taken)
}

// Info looks at the storage as it is now.
func (s *Storage) Info() (Info, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		return Info{}, fmt.Errorf("stat storage %s: %w", s.dir, err)
	}
	i := Info{
		Dir: s.dir, Filesystem: fsName(st.Type), Reflink: s.reflink, Warning: s.warning,
		Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize,
	}
	if s.image == "" {
		return i, nil
	}
	err := s.imageInfo(&i)
	return i, err
}

func (s *Storage) imageInfo(i *Info) error {
	i.Image = s.image
	m, err := mountAt(s.dir)
	if err != nil {
		return err
	}
	if m == nil || !backs(m.Source, s.image) {
		i.Reflink, i.Warning = false, s.image+" is not mounted any more"
		return nil
	}
	i.LoopDevice, i.DirectIO = m.Source, directIO(m.Source)
	fi, err := os.Stat(s.image)
	if err != nil {
		return fmt.Errorf("stat image: %w", err)
	}
	i.ImageSize, i.ImageUsed = fi.Size(), fi.Sys().(*syscall.Stat_t).Blocks*512
	var host unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.image), &host); err != nil {
		return fmt.Errorf("stat filesystem of %s: %w", s.image, err)
	}
	i.HostFree = int64(host.Bavail) * host.Bsize
	return nil
}

// fsName names the filesystems that a storage is found on; statfs(2) has the
// magic numbers.
func fsName(magic int64) string {
	switch magic {
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case 0xca451a4e:
		return "bcachefs"
	case 0x2fc12fc1:
		return "zfs"
	}
	return "0x" + strconv.FormatInt(magic, 16)
}
