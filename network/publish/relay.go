package publish

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// relay carries the connections to one clone.
type relay struct {
	id    string
	to    netip.AddrPort
	slots chan struct{} // a token for each connection
	all   chan struct{} // the same of all relays
	wg    sync.WaitGroup
	full  atomic.Bool // connections were refused since there last was room

	ctx  context.Context // ends with the relay
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	open   map[io.Closer]bool // listeners and connections
}

// newRelay returns a relay that carries at most as many connections at once as each and the capacity of all say.
func newRelay(id string, to netip.AddrPort, all chan struct{}, each int) *relay {
	r := &relay{id: id, to: to, slots: make(chan struct{}, each), all: all, open: map[io.Closer]bool{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// serve accepts from l until the relay is closed.
func (r *relay) serve(l net.Listener) {
	if !r.keep(l) {
		return
	}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err == nil {
				r.admit(c)
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			slog.Warn("accept connection", "to", r.to, "error", err)
			select { // there is no event for that
			case <-time.After(retryAccept):
			case <-r.ctx.Done():
			}
		}
	})
}

// admit carries a connection if there is room, and else refuses it: a client that waits in the kernel's queue would not
// know why.
func (r *relay) admit(c net.Conn) {
	if take(r.slots) {
		if take(r.all) {
			r.full.Store(false)
			r.wg.Go(func() { r.carry(c); <-r.all; <-r.slots })
			return
		}
		<-r.slots
	}
	if !r.full.Swap(true) {
		slog.Warn("connections by a published port are refused: too many are open", "clone", r.id, "to", r.to, "open", len(r.slots), "of_all", len(r.all))
	}
	_ = c.(*net.TCPConn).SetLinger(0) // it is reset: the client knows at once
	_ = c.Close()
}

// take takes a token, if there is one.
func take(slots chan struct{}) bool {
	select {
	case slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// keep has a thing closed with the relay; false says that it is.
func (r *relay) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = c.Close()
		return false
	}
	r.open[c] = true
	return true
}

func (r *relay) drop(c io.Closer) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// carry connects one client to the clone until both sides have said all.
func (r *relay) carry(client net.Conn) {
	if !r.keep(client) {
		return
	}
	defer r.drop(client)
	dialer := net.Dialer{Timeout: dialTimeout}
	server, err := dialer.DialContext(r.ctx, "tcp", r.to.String())
	if err != nil {
		slog.Warn("connect to clone", "to", r.to, "error", err)
		return
	}
	if !r.keep(server) {
		return
	}
	defer r.drop(server)
	var both sync.WaitGroup
	both.Go(func() { pour(server, client) })
	both.Go(func() { pour(client, server) })
	both.Wait()
}

// pour copies until from has no more, and tells so. The kernel moves the bytes:
// see splice(2).
func pour(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = from.Close() // the other direction is of no use any more
		_ = to.Close()
		return
	}
	_ = to.(*net.TCPConn).CloseWrite()
}

// close ends listeners and connections, and waits for them. It is idempotent.
func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	all := r.open
	r.open = map[io.Closer]bool{}
	r.mu.Unlock()
	r.stop()
	for c := range all {
		_ = c.Close()
	}
	r.wg.Wait()
}
