package server

import (
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

const (
	// maxRemote bounds the connections of callers of other hosts, with those who have not
	// shown a certificate yet: descriptors are to be left for callers of this host.
	maxRemote = 1024
	// maxOfUser bounds those of one user of this host: more leases than clones that one machine runs.
	maxOfUser = 4096
	// refusalTime bounds what telling somebody that he has too many takes.
	refusalTime = 100 * time.Millisecond
)

// bounded is a listener that bounds how many connections there are at a time.
type bounded struct {
	net.Listener
	perUser, all int
	// userOf says whose a connection is; false: it is not counted.
	userOf func(c net.Conn) (uid uint32, counted bool)
	// refuse tells the other end that it is one too many. It is closed then.
	refuse func(c net.Conn, uid uint32, most int)

	mu     sync.Mutex
	byUser map[uint32]int
	total  int
}

// boundRemote bounds the connections of a TCP listener.
func boundRemote(l net.Listener, most int) *bounded {
	return &bounded{
		Listener: l, perUser: most, all: most, byUser: map[uint32]int{},
		userOf: func(net.Conn) (uint32, bool) { return 0, true },
		refuse: func(net.Conn, uint32, int) {}, // the connection's end says it: there is no TLS yet
	}
}

// boundLocal bounds the connections of users to a unix socket, so that most of the descriptors that this process may
// have are left for root, and for what the daemon itself opens.
//
// payer says whose connections those of a user count with; nil: their own.
func boundLocal(l net.Listener, payer func(uid int) int) (*bounded, error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("find the limit of descriptors: %w", err)
	}
	return &bounded{
		Listener: l, perUser: int(min(files.Cur/8, maxOfUser)), all: int(files.Cur / 4), byUser: map[uint32]int{},
		refuse: refuseLocal, userOf: func(c net.Conn) (uint32, bool) {
			uid := peerUID(c)
			if payer != nil {
				uid = uint32(payer(int(uid)))
			}
			return uid, uid != 0
		},
	}, nil
}

// peerUID says who is at the other end of a unix socket.
func peerUID(c net.Conn) (uid uint32) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return math.MaxUint32
	}
	uid = math.MaxUint32 // whom the kernel does not tell
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = cred.Uid
		}
	})
	return uid
}

// refuseLocal answers a request that is not read. The answer fits in the empty buffer of a new socket.
func refuseLocal(c net.Conn, uid uint32, most int) {
	body, err := json.Marshal(api.ErrorBody{Error: &api.Error{
		Code: api.CodeCapacity, Retryable: true,
		Message: fmt.Sprintf("user %d has %d connections to the daemon, or all users have as many as there may be", uid, most),
		Hint:    "end some of those that follow logs or events or hold leases, or try again later",
	}})
	if err != nil {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(refusalTime))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		http.StatusTooManyRequests, http.StatusText(http.StatusTooManyRequests), len(body), body)
}

// Accept returns the next connection that there is room for.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, counted := b.userOf(c)
		if !counted {
			return c, nil
		}
		if !b.take(uid) {
			b.refuse(c, uid, b.perUser)
			_ = c.Close()
			continue
		}
		return &boundedConn{Conn: c, release: sync.OnceFunc(func() { b.give(uid) })}, nil
	}
}

func (b *bounded) take(uid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byUser[uid] >= b.perUser || b.total >= b.all {
		return false
	}
	b.byUser[uid]++
	b.total++
	return true
}

func (b *bounded) give(uid uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.byUser[uid]--; b.byUser[uid] == 0 {
		delete(b.byUser, uid)
	}
}

// boundedConn gives its place back when it is closed.
type boundedConn struct {
	net.Conn
	release func()
}

// SyscallConn gives the descriptor, by which callers are known.
func (c *boundedConn) SyscallConn() (syscall.RawConn, error) {
	return c.Conn.(syscall.Conn).SyscallConn()
}

// Close closes the connection.
func (c *boundedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
