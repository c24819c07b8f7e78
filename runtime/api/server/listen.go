package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// socketMode lets root and the group in.
const socketMode = 0o660

// Listen listens on a unix socket at path that root and group may connect to;
// a group that does not exist is left out: see [LetIn]. A socket that a dead daemon has left
// is replaced; one that is served is refused with FailedPrecondition, and what
// is no socket with AlreadyExists. The connections of each user but root are bounded; payer says
// whose bounds hold for a user, nil that it is everybody's own. Close removes the socket.
func Listen(path, group string, payer func(uid int) int) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The kernel gives the file the mode of the socket's inode, less the umask:
	// there is no moment at which everybody could connect.
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var chmodErr error
		err := conn.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), socketMode) })
		return errors.Join(err, chmodErr)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if _, err := LetIn(path, group); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	bounded, err := boundLocal(l, payer)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return bounded, nil
}

// LetIn lets the members of a group connect to a socket; known says whether there is such a group.
func LetIn(path, group string) (known bool, err error) {
	if group != "" {
		g, err := user.LookupGroup(group)
		var unknown user.UnknownGroupError
		if err != nil && !errors.As(err, &unknown) {
			return false, err
		}
		if err == nil {
			gid, err := strconv.Atoi(g.Gid)
			if err != nil {
				return false, fmt.Errorf("group %s: %w", group, err)
			}
			if err := os.Chown(path, -1, gid); err != nil {
				return false, err
			}
			known = true
		}
	}
	return known, os.Chmod(path, socketMode)
}

// removeStale removes the socket of a daemon that is gone.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return snapshot.WithHint(fmt.Errorf("listen on %s: it is not a socket: %w", path, errdefs.ErrAlreadyExists), "move it away, or choose another path")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return snapshot.WithHint(fmt.Errorf("listen on %s: a daemon serves it: %w", path, errdefs.ErrFailedPrecondition), "stop that daemon, or choose another path")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("look for a daemon at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}
