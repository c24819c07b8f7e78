package manager

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// maxPasswd bounds what is read of a clone's passwd, in bytes.
const maxPasswd = 1 << 20

// lookupUser returns the numbers of "name", "uid" or "uid:gid". Names are looked up in the passwd of the root
// filesystem of process pid. A uid without gid has its group from there too, else the group of the same number.
func lookupUser(pid int, user string) (uid, gid uint32, err error) {
	u, g, both := strings.Cut(user, ":")
	uid, ok := parseID(u)
	if both {
		gid, gok := parseID(g)
		if !ok || !gok {
			return 0, 0, fmt.Errorf("invalid user %.64q: want a name, a uid, or uid:gid: %w", user, errdefs.ErrInvalidArgument)
		}
		return uid, gid, nil
	}
	passwd, err := openPasswd(pid)
	if err == nil {
		defer passwd.Close()
		if uid, gid, found := searchPasswd(passwd, u); found {
			return uid, gid, nil
		}
	}
	if ok {
		return uid, uid, nil
	}
	return 0, 0, fmt.Errorf("no user %.64q in the clone: %w", user, errdefs.ErrNotFound)
}

// parseID parses a user or group id; -1 is none, see setresuid(2).
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n < math.MaxUint32
}

// openPasswd opens /etc/passwd as process pid sees it. Whoever writes in the clone may have put anything there: links
// must not lead out (openat2(2)), and what is not a plain file must not block.
func openPasswd(pid int) (*os.File, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	defer func() { _ = unix.Close(root) }() // it was opened for its path only
	fd, err := unix.Openat2(root, "etc/passwd", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	at := os.NewFile(uintptr(fd), "/etc/passwd")
	defer at.Close()
	return foreign.Reopen(at, os.O_RDONLY)
}

// searchPasswd looks for a name or a uid. See passwd(5).
func searchPasswd(r io.Reader, user string) (uid, gid uint32, found bool) {
	for s := bufio.NewScanner(io.LimitReader(r, maxPasswd)); s.Scan(); {
		f := strings.Split(s.Text(), ":")
		if len(f) < 4 || (f[0] != user && f[2] != user) {
			continue
		}
		uid, uok := parseID(f[2])
		gid, gok := parseID(f[3])
		if uok && gok {
			return uid, gid, true
		}
	}
	return 0, 0, false
}
