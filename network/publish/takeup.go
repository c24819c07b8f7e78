package publish

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// restartAfter is how long a proxy that ends at once is waited for.
const restartAfter = time.Second

// takeUp has the proxy do what the records say. The caller holds mu.
func (p *Publisher) takeUp(ctx context.Context) {
	have, err := p.ask()
	for range 3 {
		if err == nil {
			break
		}
		p.disconnect() // one that was about to end has let us in
		have, err = p.ask()
	}
	for _, id := range have {
		if _, ok := p.records[id]; !ok && err == nil {
			err = p.proxy.remove(id)
		}
	}
	for id, r := range p.records {
		if err == nil && !slices.Contains(have, id) {
			if err := p.again(ctx, id, r); err != nil {
				p.opts.Log.ErrorContext(ctx, "clone is not published any more", "clone", id, "error", err)
			}
		}
	}
	if err != nil {
		p.disconnect()
		p.opts.Log.ErrorContext(ctx, "clones are not published any more", "error", err)
	}
}

// ask returns the ids that the proxy has.
func (p *Publisher) ask() ([]string, error) {
	if err := p.connect(); err != nil {
		return nil, err
	}
	return p.proxy.list()
}

// again publishes what the proxy has lost.
func (p *Publisher) again(ctx context.Context, id string, r record) error {
	listeners, err := listenAll(ctx, r.At)
	if err != nil {
		return err
	}
	defer closeListeners(listeners)
	return p.proxy.add(id, r.To, listeners)
}

// connect sees to it that there is a proxy, and watches over it. The caller
// holds mu.
func (p *Publisher) connect() error {
	if p.proxy != nil {
		return nil
	}
	c, err := connect(p.opts.Dir, p.opts.Program)
	if err != nil {
		return err
	}
	at := &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(p.opts.Dir, "proxy.sock")}
	watched, err := net.DialUnix(at.Net, nil, at)
	if err != nil {
		return errors.Join(err, c.conn.Close())
	}
	p.proxy, p.watched = c, watched
	p.wg.Go(func() { p.watch(watched) })
	return nil
}

// disconnect gives the proxy up. The caller holds mu.
func (p *Publisher) disconnect() {
	if p.proxy != nil {
		_ = p.proxy.conn.Close()
		_ = p.watched.Close()
		p.proxy, p.watched = nil, nil
	}
}

// watch replaces a proxy that somebody has killed.
func (p *Publisher) watch(conn *net.UnixConn) {
	watch(conn)
	select {
	case <-p.stop:
		return
	case <-time.After(restartAfter):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watched == conn {
		p.disconnect()
	}
	if len(p.records) > 0 && !p.closed {
		p.opts.Log.Warn("lost the proxy of published ports: if it has ended, connections by it are cut, and another one goes on")
		p.takeUp(context.Background())
	}
}

// hand gives listeners to the proxy; one that has ended is replaced.
func (p *Publisher) hand(ctx context.Context, id string, to netip.AddrPort, listeners []*net.TCPListener) error {
	if err := p.connect(); err != nil {
		return err
	}
	err := p.proxy.add(id, to, listeners)
	if err == nil || errdefs.IsInternal(err) {
		return err
	}
	p.disconnect()
	if p.takeUp(ctx); p.proxy == nil {
		return err
	}
	return p.proxy.add(id, to, listeners)
}
