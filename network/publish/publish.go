// Package publish gives clones ports of the host: a process of its own, the
// proxy, listens there and carries connections to the clone's address. It
// outlives the daemon, and so do the connections. network/DESIGN.md says why it
// is no rule of the kernel.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// MaxAddresses bounds at how many addresses one clone is published.
const MaxAddresses = maxListeners

// Options configure a Publisher. Dir is required.
type Options struct {
	// Dir holds records and the proxy's socket. It is on a filesystem that a
	// reboot empties.
	Dir string
	// Program is the path of ctrsnap-proxy, started when it is needed first.
	Program string
	Log     *slog.Logger // nil means slog.Default()

	// Failpoint, if set, is called before each step of Publish and Unpublish.
	Failpoint func(step string) error
}

// Publisher says where clones are published. It is safe for concurrent use.
type Publisher struct {
	opts Options
	dir  recordDir
	ipv6 bool

	mu      sync.Mutex
	closed  bool
	records map[string]record // by id
	proxy   *client           // nil while there is none
	watched *net.UnixConn
	wg      sync.WaitGroup
	stop    chan struct{}
}

// Open takes up what an earlier process with the same Dir has published. A port
// that was lost meanwhile is logged. The caller must Close the Publisher.
func Open(ctx context.Context, opts Options) (*Publisher, error) {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	p := &Publisher{opts: opts, dir: recordDir(opts.Dir), ipv6: hasIPv6(), stop: make(chan struct{})}
	err := os.MkdirAll(opts.Dir, 0o700)
	if err == nil {
		p.records, err = p.dir.readAll()
	}
	if err != nil {
		return nil, fmt.Errorf("open published ports: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.records) > 0 {
		p.takeUp(ctx)
	}
	return p, nil
}

// Publish has connections to addresses of this host carried to a clone, until
// Unpublish. It returns where one connects to. An id that instead is "" or not
// published at these addresses gives them up first, if its successor gets them.
// What an error leaves behind is nothing.
//
// Errors (containerd/errdefs): AlreadyExists for a port that is taken or an id
// that is published, InvalidArgument for an address that is not this host's.
func (p *Publisher) Publish(ctx context.Context, id, instead string, at []Address, to netip.AddrPort) ([]netip.AddrPort, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(at) == 0 || len(at) > MaxAddresses {
		return nil, fmt.Errorf("publish %s: %d addresses are not within 1 and %d: %w", id, len(at), MaxAddresses, errdefs.ErrInvalidArgument)
	}
	if _, ok := p.records[id]; ok || p.closed {
		return nil, fmt.Errorf("publish %s: %w", id, errdefs.ErrAlreadyExists)
	}
	old, had := p.records[instead]
	if had {
		if err := p.remove(instead); err != nil {
			return nil, err
		}
	}
	r, err := p.add(ctx, id, at, to)
	if err != nil {
		if had {
			_, undoErr := p.add(context.WithoutCancel(ctx), instead, old.At, old.To)
			err = errors.Join(err, undoErr)
		}
		return nil, err
	}
	return r.published(p.ipv6), nil
}

func (p *Publisher) add(ctx context.Context, id string, at []Address, to netip.AddrPort) (r record, err error) {
	if err := p.taken(at); err != nil {
		return r, err
	}
	listeners, err := listenAll(ctx, at)
	if err != nil {
		return r, err
	}
	defer closeListeners(listeners) // the proxy has its own by then
	r = record{At: slices.Clone(at), To: to}
	for i, l := range listeners {
		r.At[i].Port = addressesOf(l)[0].Port()
	}
	if err := p.step("record"); err != nil {
		return r, err
	}
	if err := p.dir.write(id, r); err != nil {
		return r, fmt.Errorf("publish %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.dir.remove(id))
		}
	}()
	if err = p.step("recorded"); err != nil {
		return r, err
	}
	if err = p.hand(ctx, id, to, listeners); err != nil {
		return r, fmt.Errorf("publish %s: %w", id, err)
	}
	p.records[id] = r
	if err = p.step("published"); err != nil {
		delete(p.records, id)
		return r, errors.Join(err, p.proxy.remove(id))
	}
	return r, nil
}

// taken says whose an address is if it is that of a clone.
func (p *Publisher) taken(at []Address) error {
	for id, r := range p.records {
		for _, have := range r.At {
			for _, want := range at {
				if want.Port == have.Port && (want.IP == have.IP || !want.IP.IsValid() || !have.IP.IsValid()) {
					return network.WithHint(
						fmt.Errorf("publish at %s: the port is that of clone %s: %w", want, id, errdefs.ErrAlreadyExists),
						"choose another port, or 0 for a free one")
				}
			}
		}
	}
	return nil
}

// Unpublish cuts all connections by the host's ports, which are free when it
// returns. It is idempotent.
func (p *Publisher) Unpublish(_ context.Context, id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.records[id]; !ok {
		return nil
	}
	return p.remove(id)
}

// remove takes the record away last. The caller holds mu.
func (p *Publisher) remove(id string) error {
	if err := p.step("remove"); err != nil {
		return err
	}
	if p.proxy != nil {
		if err := p.proxy.remove(id); err != nil {
			p.disconnect() // it has ended, or hangs: the next one is told what is left
			p.opts.Log.Warn("the proxy of published ports does not answer", "error", err)
		}
	}
	if err := p.step("removed"); err != nil {
		return err
	}
	if err := p.dir.remove(id); err != nil {
		return fmt.Errorf("unpublish %s: %w", id, err)
	}
	delete(p.records, id)
	return nil
}

// Published lists the ids that are.
func (p *Publisher) Published(context.Context) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]string, 0, len(p.records))
	for id := range p.records {
		ids = append(ids, id)
	}
	return ids, nil
}

// Close lets go of the proxy. What is published stays so. It is idempotent.
func (p *Publisher) Close() error {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.stop)
	}
	p.disconnect()
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// Teardown closes the Publisher and removes its directory. While anything is
// published it fails with FailedPrecondition.
func (p *Publisher) Teardown(ctx context.Context) error {
	if ids, _ := p.Published(ctx); len(ids) > 0 {
		return fmt.Errorf("tear down published ports: %d clones have some (%s …): %w", len(ids), ids[0], errdefs.ErrFailedPrecondition)
	}
	return errors.Join(p.Close(), os.RemoveAll(p.opts.Dir))
}

func (p *Publisher) step(name string) error {
	if p.opts.Failpoint == nil {
		return nil
	}
	return p.opts.Failpoint(name)
}
