// Package dial connects to the servers of clones and of golden builds. What
// runs there is not trusted.
package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/runtime"
)

// Socket connects to the unix socket at path. Who is in the container can put
// a symlink in its place: none is followed.
func Socket(ctx context.Context, path string) (net.Conn, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Type() != os.ModeSocket {
		return nil, &os.PathError{Op: "connect", Path: path, Err: unix.ENOTSOCK}
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

// TCP connects to a port of the server at ep: at its address, or where it has
// none, at the loopback address of its own network namespace.
func TCP(ctx context.Context, ep runtime.Endpoint, port int) (net.Conn, error) {
	var d net.Dialer
	if ep.Addr.IsValid() {
		return d.DialContext(ctx, "tcp", net.JoinHostPort(ep.Addr.String(), strconv.Itoa(port)))
	}
	return within(ctx, ep.PID, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// within dials in the network namespace of a process: a socket belongs to that of the
// thread that makes it.
func within(ctx context.Context, pid int, address string) (conn net.Conn, err error) {
	err = netns.Inside(fmt.Sprintf("/proc/%d/ns/net", pid), func() (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "tcp4", address) // one address: it is dialed in this goroutine
		return err
	})
	return conn, err
}

// NotYet says whether an error means that nobody listens yet.
func NotYet(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EAGAIN)
}
