package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ioctls of XFS and their arguments, from the kernel's fs/xfs/libxfs/xfs_fs.h.
// They are part of its stable interface.
const (
	xfsIocFSGeometryV1 = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
	xfsIocGrowFSData   = 0x4010586e // _IOW('X', 110, struct xfs_growfs_data)
	fitrim             = 0xc0185879 // _IOWR('X', 121, struct fstrim_range)
)

type xfsGeometry struct {
	BlockSize, RTExtSize, AGBlocks, AGCount      uint32
	LogBlocks, SectSize, InodeSize, IMaxPct      uint32
	DataBlocks, RTBlocks, RTExtents, LogStart    uint64
	UUID                                         [16]byte
	SUnit, SWidth                                uint32
	Version                                      int32
	Flags, LogSectSize, RTSectSize, DirBlockSize uint32
	_                                            uint32
}

type xfsGrowData struct {
	NewBlocks uint64
	IMaxPct   uint32
	_         uint32
}

type fstrimRange struct{ Start, Len, MinLen uint64 }

// minAGBlocks is the smallest allocation group that XFS makes. A rest of the
// device that is smaller stays unused.
const minAGBlocks = 64

// Grow makes the image and the filesystem in it size bytes large, while it is
// in use. A crash in the middle is made good by the next Open.
//
// Errors: FailedPrecondition if the storage is not an image of ours,
// InvalidArgument if size is under the present one: XFS cannot shrink.
func (s *Storage) Grow(ctx context.Context, size int64) error {
	if s.image == "" {
		return fmt.Errorf("grow storage %s: not an image: %w", s.dir, errdefs.ErrFailedPrecondition)
	}
	fi, err := os.Stat(s.image)
	if err != nil {
		return fmt.Errorf("grow storage: %w", err)
	}
	if size < fi.Size() {
		return fmt.Errorf("grow storage to %d bytes: it has %d, and XFS cannot shrink: %w", size, fi.Size(), errdefs.ErrInvalidArgument)
	}
	return s.growTo(ctx, size, func(string) error { return nil })
}

// growTo brings image, loop device and filesystem to size, or to the largest
// of the three, one after the other. Each step is idempotent.
func (s *Storage) growTo(ctx context.Context, size int64, step func(string) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	size, err := extend(s.image, size)
	if err != nil {
		return fmt.Errorf("grow image: %w", err)
	}
	dir, err := s.open()
	if err != nil {
		return fmt.Errorf("grow storage: %w", err)
	}
	defer dir.Close()
	var geo xfsGeometry
	if err := ioctl(dir, xfsIocFSGeometryV1, unsafe.Pointer(&geo)); err != nil {
		return fmt.Errorf("read geometry of %s: %w", s.dir, err)
	}
	blocks := uint64(size) / uint64(geo.BlockSize)
	if blocks < geo.DataBlocks+minAGBlocks {
		return nil
	}
	if err := step("extended"); err != nil {
		return err
	}
	if err := s.setCapacity(); err != nil {
		return err
	}
	if err := step("resized"); err != nil {
		return err
	}
	grow := xfsGrowData{NewBlocks: blocks, IMaxPct: geo.IMaxPct}
	if err := ioctl(dir, xfsIocGrowFSData, unsafe.Pointer(&grow)); err != nil {
		return fmt.Errorf("grow filesystem %s to %d blocks: %w", s.dir, blocks, err)
	}
	return nil
}

// extend makes the sparse file at least size bytes long, in whole MiB, and
// returns how long it is.
func extend(path string, size int64) (int64, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	size &^= 1<<20 - 1
	if size <= fi.Size() {
		return fi.Size(), nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	return size, errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// setCapacity tells the loop device that its file has grown.
func (s *Storage) setCapacity() error {
	m, err := mountAt(s.dir)
	if err != nil {
		return err
	}
	if m == nil || !backs(m.Source, s.image) {
		return fmt.Errorf("grow storage: %s is not mounted at %s: %w", s.image, s.dir, errdefs.ErrFailedPrecondition)
	}
	dev, err := os.OpenFile(m.Source, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("set capacity of %s: %w", m.Source, err)
	}
	return nil
}

// Trim gives all free space of the image back to the host and returns the
// bytes that it looked at. The mount discards by itself what is freed, so this
// is only for what was freed just before a crash. Open does it when it mounts.
// A filesystem that is not ours is left alone.
func (s *Storage) Trim() (int64, error) {
	if s.image == "" {
		return 0, nil
	}
	dir, err := s.open()
	if err != nil {
		return 0, fmt.Errorf("trim storage: %w", err)
	}
	defer dir.Close()
	r := fstrimRange{Len: math.MaxUint64}
	err = ioctl(dir, fitrim, unsafe.Pointer(&r))
	// The filesystem of the image may know no holes.
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fmt.Errorf("trim storage %s: %w", s.dir, err)
	}
	return int64(r.Len), nil
}

func ioctl(f *os.File, req uintptr, arg unsafe.Pointer) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(arg))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}
