package bridge

import (
	"fmt"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ifIndex looks a link up without the lock that all changes of links take, see
// SIOCGIFINDEX in netdevice(7).
func ifIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	return ifIndexBy(fd, name)
}

// ifIndexBy does so by a socket that is there.
func ifIndexBy(fd int, name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// awaitCarrier has the kernel take note now that the other end of a link is up:
// until then, up to a second, the bridge drops what goes to it. To be asked by
// ETHTOOL_GLINK makes it do so (linkwatch_sync_dev).
func awaitCarrier(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	value := struct{ cmd, up uint32 }{cmd: unix.ETHTOOL_GLINK}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // struct ifreq is larger
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	if value.up == 0 {
		return fmt.Errorf("link %s has no carrier: %w", name, errdefs.ErrUnavailable)
	}
	return nil
}
