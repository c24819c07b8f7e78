package server

import (
	"context"
	"crypto/tls"
	"net"
	"os/user"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
)

type connKey struct{}

// withConn keeps a request's connection in its context.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connOf returns the file descriptor of a request's connection, or nil.
func connOf(ctx context.Context) syscall.RawConn {
	conn := ctx.Value(connKey{})
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// caller says who is at the other end of a unix socket, as the kernel recorded
// it when the connection was made; see SO_PEERCRED in unix(7). PID is 0 for a caller of
// another PID namespace. Whoever came by TLS is whom their certificate names. Anybody else is nobody.
func (s *Server) caller(ctx context.Context) (access.Caller, error) {
	if conn, ok := ctx.Value(connKey{}).(*tls.Conn); ok {
		return s.remote(conn)
	}
	return s.local(ctx), nil
}

func (s *Server) local(ctx context.Context) access.Caller {
	raw := connOf(ctx)
	if raw == nil {
		return access.Caller{}
	}
	var cred *unix.Ucred
	var groups []int
	err := raw.Control(func(fd uintptr) {
		cred, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		groups = peerGroups(fd)
	})
	if err != nil || cred == nil || access.IsCertUID(int(cred.Uid)) { // no process is a certificate's user
		return access.Caller{}
	}
	c := access.User(s.users.name(cred.Uid), int(cred.Uid), append([]int{int(cred.Gid)}, groups...)...)
	c.PID = int(cred.Pid)
	if gid := s.admins.gid(); gid > 0 && c.In(gid) {
		c = c.AsAdmin()
	}
	return c
}

// peerGroups returns the supplementary groups of a socket's other end when it connected:
// see SO_PEERGROUPS in the kernel's net/core/sock.c. They are what its process had,
// whatever the group database says by now. None where the kernel does not tell.
func peerGroups(fd uintptr) []int {
	gids := make([]uint32, 64)
	for {
		size := uint32(4 * len(gids)) //nolint:gosec // at most NGROUPS_MAX, 65536, of them
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&gids[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == unix.ERANGE && int(size) > 4*len(gids):
			gids = make([]uint32, size/4)
			continue
		case errno != 0:
			return nil
		}
		list := make([]int, size/4)
		for i := range list {
			list[i] = int(gids[i])
		}
		return list
	}
}

// userNames remembers user names: to look one up may take a directory service.
type userNames struct {
	mu    sync.Mutex
	byUID map[uint32]string
}

func (u *userNames) name(uid uint32) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if name, ok := u.byUID[uid]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(uid), 10)
	if found, err := user.LookupId(name); err == nil {
		name = found.Username
	}
	if u.byUID == nil {
		u.byUID = map[uint32]string{}
	}
	u.byUID[uid] = name
	return name
}

// lookEvery is how often a group is looked for that does not exist.
const lookEvery = 10 * time.Second

// group is one of this host, which may come to be later.
type group struct {
	name string

	mu     sync.Mutex
	known  int
	looked time.Time
}

// gid returns its number, or 0 if there is none.
func (g *group) gid() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == 0 && (g.looked.IsZero() || time.Since(g.looked) >= lookEvery) {
		g.known, g.looked = lookupGroup(g.name), time.Now()
	}
	return g.known
}

// lookupGroup returns the number of a group, or 0. Root's group is none: who is in
// it is not root.
func lookupGroup(name string) int {
	if name == "" {
		return 0
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0
	}
	gid, _ := strconv.Atoi(g.Gid)
	return gid
}

// watchPeer cancels once the other end of conn has closed it, and returns when
// ctx ends. It does not read: what was sent before stays to be read.
func watchPeer(ctx context.Context, conn syscall.RawConn, every time.Duration, cancel context.CancelCauseFunc) {
	if conn == nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if hungUp(conn) {
				cancel(context.Canceled)
				return
			}
		}
	}
}

func hungUp(conn syscall.RawConn) bool {
	var gone bool
	err := conn.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, _ := unix.Poll(p, 0)
		gone = n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return err != nil || gone
}
