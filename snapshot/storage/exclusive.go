package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// FIEMAP, from the kernel's include/uapi/linux/fiemap.h.
const (
	fsIocFiemap        = 0xc020660b // _IOWR('f', 11, struct fiemap)
	fiemapExtentLast   = 0x0001
	fiemapExtentShared = 0x2000
	extentsPerCall     = 512
)

type fiemap struct {
	Start, Length           uint64
	Flags, Mapped, Count, _ uint32
	Extents                 [extentsPerCall]fiemapExtent
}

type fiemapExtent struct {
	Logical, Physical, Length uint64
	_                         [2]uint64
	Flags                     uint32
	_                         [3]uint32
}

type inode struct{ dev, ino uint64 }

// Exclusive returns the bytes of disk that the regular files below dir hold
// alone: extents shared with a file elsewhere do not count, a file with
// several names counts once. Extents that files below dir share among each
// other do not count either. Directories and other metadata are left out.
//
// It does not sync first, so it costs no disk time: data not written back yet
// counts, but a shared extent that was overwritten counts only once the kernel
// has written it back. Files that vanish meanwhile are skipped, and nothing
// below dir can lead out of it.
func Exclusive(ctx context.Context, dir string) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	defer func() { _ = root.Close() }()
	var (
		total int64
		seen  = map[inode]bool{}
		buf   = new(fiemap)
	)
	err = fs.WalkDir(foreign.FS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil || !d.Type().IsRegular() {
			return err
		}
		n, err := exclusiveFile(root, path, seen, buf)
		total += n
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", dir, err)
	}
	return total, nil
}

// exclusiveFile measures one file. A writer may have put something else in its place.
func exclusiveFile(root *os.Root, path string, seen map[inode]bool, buf *fiemap) (int64, error) {
	f, err := foreign.Open(root, path)
	if errors.Is(err, fs.ErrNotExist) || errdefs.IsInvalidArgument(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	if st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if seen[id] {
			return 0, nil
		}
		seen[id] = true
	}
	n, err := exclusiveExtents(f, buf)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return st.Blocks * 512, nil // a filesystem without FIEMAP shares no extents
	}
	return n, err
}

func exclusiveExtents(f *os.File, buf *fiemap) (int64, error) {
	var total int64
	for start := uint64(0); ; {
		*buf = fiemap{Start: start, Length: ^uint64(0) - start, Count: extentsPerCall}
		if err := ioctl(f, fsIocFiemap, unsafe.Pointer(buf)); err != nil {
			return 0, err
		}
		for _, e := range buf.Extents[:buf.Mapped] {
			if e.Flags&fiemapExtentShared == 0 {
				total += int64(e.Length)
			}
		}
		if buf.Mapped < extentsPerCall {
			return total, nil
		}
		last := buf.Extents[buf.Mapped-1]
		if last.Flags&fiemapExtentLast != 0 {
			return total, nil
		}
		start = last.Logical + last.Length
	}
}
