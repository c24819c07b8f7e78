package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// sector is the logical block size of the loop device, in bytes.
const sector = 4096

// attach puts image on a free loop device and returns the open device.
//
// The device has LO_FLAGS_AUTOCLEAR: the kernel detaches it when the last user
// is gone, which is whoever holds the returned file or mounts the device. So a
// process that dies between attach and mount leaks nothing, and neither does
// an umount by hand. Direct I/O keeps the image out of the page cache, where
// the files in it are already; the kernel falls back silently where the
// image's filesystem cannot do it. See loop(4).
func attach(image string) (*os.File, error) {
	if dev, err := attached(image); dev != nil || err != nil {
		return dev, err
	}
	back, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, noLoop(err)
	}
	defer ctl.Close()

	// Between GET_FREE and CONFIGURE another process can take the device.
	for range 64 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, noLoop(err)
		}
		dev, err := configure(fmt.Sprintf("/dev/loop%d", n), back)
		if !errors.Is(err, unix.EBUSY) {
			return dev, err
		}
	}
	return nil, fmt.Errorf("attach %s: no free loop device: %w", image, errdefs.ErrUnavailable)
}

func configure(path string, back *os.File) (*os.File, error) {
	dev, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, noLoop(err)
	}
	cfg := unix.LoopConfig{Fd: uint32(back.Fd()), Size: sector}
	cfg.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], back.Name())
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("attach %s to %s: %w", back.Name(), path, err)
	}
	return dev, nil
}

func noLoop(err error) error {
	return snapshot.WithHint(
		fmt.Errorf("get loop device: %w: %w", err, errdefs.ErrFailedPrecondition),
		"load the kernel module 'loop'; in a container, pass /dev/loop-control and loop devices through")
}

// backs says whether dev is a loop device on image. It compares inodes, since
// paths can be renamed and are cut at 64 bytes.
func backs(dev, image string) bool {
	if !strings.HasPrefix(dev, "/dev/loop") {
		return false
	}
	// An open device does not clear: so the open must be a short one.
	f, err := os.Open(dev)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return false
	}
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		return false
	}
	return info.Device == st.Dev && info.Inode == st.Ino
}

// detach frees dev if it still has image. It is for a device that somebody
// attached without autoclear.
func detach(dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", dev, err)
	}
	return nil
}

// attached returns the loop device that an image has already, or nil. A mount namespace of
// somebody else's may hold a mount that was undone in ours: by another device XFS takes the
// filesystem for a copy of the one that is mounted, and refuses it.
func attached(image string) (*os.File, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		dev := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(f)))
		if !backs(dev, image) {
			continue
		}
		loop, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err == nil && backs(dev, image) { // from here on it stays
			return loop, nil
		}
		_ = loop.Close() // nil is an error that says nothing
	}
	return nil, nil
}

// Loops returns the loop devices with a file below dir that is not mounted, dir being without
// symbolic links: what an earlier process was attaching.
func Loops(dir string) ([]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, err
	}
	mounted := map[string]bool{}
	for _, m := range mounts {
		mounted[m.Source] = true
	}
	var loops []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // freed meanwhile
		}
		dev := "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(f)))
		if strings.HasPrefix(string(b), dir+"/") && !mounted[dev] {
			loops = append(loops, dev)
		}
	}
	return loops, nil
}

// Detach frees a loop device, or has it go with its last user.
func Detach(dev string) error { return detach(dev) }

// directIO says whether the loop device bypasses the page cache.
func directIO(dev string) bool {
	b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(dev), "loop/dio"))
	return err == nil && strings.TrimSpace(string(b)) == "1"
}
