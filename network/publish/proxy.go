package publish

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const (
	// maxConns is how many connections of one clone are carried at once: more than its server takes (Redis 10,000 unless
	// told otherwise), so that it is the server that says what is too much. Beyond it connections are refused.
	maxConns = 1 << 14
	// filesPerConn is what a connection takes of the files that the proxy may have open: two sockets, two pipes to
	// splice by, and some for all else.
	filesPerConn = 8
	dialTimeout  = 10 * time.Second
	// retryAccept is how long a listener rests that cannot accept, because the
	// process has too many files open.
	retryAccept = 100 * time.Millisecond
)

// Proxy carries connections to clones. It is a process of its own, so that they
// outlive the daemon that asked for it.
type Proxy struct {
	mu        sync.Mutex
	published map[string]*relay // by id
	daemons   int               // connections to it
	control   *net.UnixListener

	slots chan struct{} // a token for each connection of all clones
	each  int           // how many of them one clone has at most
}

// newProxy returns a proxy that leaves half of what it can carry to others, whatever one clone has.
func newProxy(control *net.UnixListener, files uint64) *Proxy {
	all := int(min(files/filesPerConn, 8*maxConns))
	return &Proxy{published: map[string]*relay{}, control: control, slots: make(chan struct{}, all), each: min(all/2, maxConns)}
}

// Serve does what daemons ask for that connect to control, until none is
// connected and nothing is published.
func Serve(control *net.UnixListener) error {
	var files unix.Rlimit // Go raises the soft limit to the hard one
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("ask how many files may be open: %w", err)
	}
	p := newProxy(control, files.Cur)
	for {
		c, err := control.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept daemon: %w", err)
		}
		p.mu.Lock()
		p.daemons++
		p.mu.Unlock()
		go p.serve(c)
	}
}

// serve answers one daemon, until it leaves.
func (p *Proxy) serve(c *net.UnixConn) {
	defer p.leave(c)
	for {
		var req request
		files, err := receive(c, &req)
		if err == nil {
			err = send(c, p.do(req, files))
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				slog.Warn("serve daemon", "error", err)
			}
			return
		}
	}
}

func (p *Proxy) leave(c *net.UnixConn) {
	_ = c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.daemons--; p.daemons == 0 && len(p.published) == 0 {
		_ = p.control.Close()
	}
}

// do answers a request. The files are closed.
func (p *Proxy) do(req request, files []*os.File) (r reply) {
	defer closeAll(files)
	var err error
	switch req.Op {
	case opAdd:
		err = p.add(req.ID, req.To, files)
	case opRemove:
		p.remove(req.ID)
	case opList:
		p.mu.Lock()
		defer p.mu.Unlock()
		for id := range p.published {
			r.IDs = append(r.IDs, id)
		}
	default:
		err = fmt.Errorf("unknown request %q: %w", req.Op, errdefs.ErrNotImplemented)
	}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func (p *Proxy) add(id string, to netip.AddrPort, files []*os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.published[id] != nil {
		return fmt.Errorf("%s is published: %w", id, errdefs.ErrAlreadyExists)
	}
	r := newRelay(id, to, p.slots, p.each)
	for _, f := range files {
		l, err := net.FileListener(f) // with a file descriptor of its own
		if err != nil {
			r.close()
			return fmt.Errorf("listen for %s: %w", id, err)
		}
		r.serve(l)
	}
	p.published[id] = r
	return nil
}

func (p *Proxy) remove(id string) {
	p.mu.Lock()
	r := p.published[id]
	delete(p.published, id)
	p.mu.Unlock()
	if r != nil {
		r.close()
	}
}
