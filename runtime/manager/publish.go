package manager

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// wayPublished is the way to a clone by a port of the host.
const wayPublished = "published"

// Ports give clones ports of the host: see [publish.Publisher].
type Ports interface {
	Publish(ctx context.Context, id, instead string, at []publish.Address, to netip.AddrPort) ([]netip.AddrPort, error)
	Unpublish(ctx context.Context, id string) error
	Published(ctx context.Context) ([]string, error)
}

// ports says where the clones are to be published. It comes after reach.
func (m *Manager) ports(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		if len(req.Publish) == 0 {
			return nil
		}
		if m.opts.Ports == nil {
			return fmt.Errorf("publish clone: this daemon publishes none: %w", errdefs.ErrNotImplemented)
		}
		if len(req.Publish) > publish.MaxAddresses {
			return fmt.Errorf("%d addresses to publish at are more than %d: %w", len(req.Publish), publish.MaxAddresses, errdefs.ErrInvalidArgument)
		}
		for _, s := range req.Publish {
			a, err := publish.Parse(s)
			if err == nil {
				err = m.mayPublish(p, a)
			}
			if err != nil {
				return err
			}
			p.publish = append(p.publish, a)
		}
		return nil
	}
}

// mayPublish refuses a port that one cannot have: callers get none by this daemon
// that they would not get by a server of their own.
func (m *Manager) mayPublish(p *plan, a publish.Address) error {
	switch {
	case a.Port > 0 && p.count > 1:
		return snapshot.WithHint(
			fmt.Errorf("port %d is for one clone, not for %d: %w", a.Port, p.count, errdefs.ErrInvalidArgument),
			"publish at 0: each gets a free port")
	case a.Port > 0 && int(a.Port) < firstFreePort() && !m.isAdmin(p.caller):
		return snapshot.WithHint(
			fmt.Errorf("ports below %d are for administrators of this host: %w", firstFreePort(), errdefs.ErrPermissionDenied),
			"choose a higher port, or 0 for a free one")
	}
	return nil
}

// firstFreePort is the first one that a process needs no privilege for: see
// ip_unprivileged_port_start in the kernel's ip-sysctl.
func firstFreePort() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if n, convErr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && convErr == nil {
		return n
	}
	return 1024
}

// publishAll publishes clones that were made, before anybody hears of them. After an
// error, or a later one, given has their predecessors published again, and the caller
// discards the clones.
func (m *Manager) publishAll(ctx context.Context, want *plan, old, clones []*clone, given *undo.Stack) error {
	for i, c := range clones {
		if c == nil || len(want.publish) == 0 {
			continue
		}
		if err := m.publishOne(ctx, c, old[i], want.publish, given); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) publishOne(ctx context.Context, c, old *clone, at []publish.Address, given *undo.Stack) error {
	if !c.rec.Addr.IsValid() {
		return snapshot.WithHint(
			fmt.Errorf("publish clone: it has no address: %w", errdefs.ErrInvalidArgument), "leave --network none away")
	}
	instead := ""
	if old != nil {
		instead = old.id
	}
	got, err := m.opts.Ports.Publish(ctx, c.id, instead, at, c.at())
	if err != nil {
		return err
	}
	if old != nil {
		given.Add("publish the predecessor again", func(ctx context.Context) error { return m.publishAgain(ctx, old, c.id) })
	}
	conn, err := c.engine.Connect(c.golden, publishedEndpoint(c, got[0]))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return m.update(ctx, c, func(r *record) {
		r.URLs, r.Env = with(r.URLs, conn.URLs["tcp"]), with(r.Env, conn.Env["tcp"])
		for _, a := range got {
			r.Published = append(r.Published, a.String())
		}
	})
}

// at is where the server of a clone listens.
func (c *clone) at() netip.AddrPort {
	return netip.AddrPortFrom(c.rec.Addr, uint16(c.rec.Port)) //nolint:gosec // it is a port
}

// publishAgain gives a clone back the ports that its record tells of, which instead may have now.
func (m *Manager) publishAgain(ctx context.Context, c *clone, instead string) error {
	m.mu.Lock()
	told := slices.Clone(c.rec.Published)
	m.mu.Unlock()
	var at []publish.Address
	for _, s := range told {
		if strings.HasPrefix(s, "0.0.0.0:") && slices.Contains(told, "[::]"+strings.TrimPrefix(s, "0.0.0.0")) {
			continue // one socket for both families
		}
		a, err := publish.Parse(s)
		if err != nil {
			return err
		}
		at = append(at, a)
	}
	if len(at) == 0 {
		return nil
	}
	if _, err := m.opts.Ports.Publish(ctx, c.id, instead, at, c.at()); err != nil {
		return fmt.Errorf("publish clone %s again: %w", c.id, err)
	}
	select {
	case <-c.gone: // its teardown may have looked before
		return m.unpublish(ctx, c.id)
	default:
		return nil
	}
}

// publishedEndpoint is how this host reaches a clone by its published port.
func publishedEndpoint(c *clone, at netip.AddrPort) runtime.Endpoint {
	ep := runtime.Endpoint{Addr: at.Addr(), Port: int(at.Port())}
	if at.Addr().IsUnspecified() {
		ep.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if c.rec.OwnPassword {
		ep.Password = c.rec.Password
	}
	return ep
}

// with returns a copy of what there is by way, with the published one.
func with[V any](all map[string]V, v V) map[string]V {
	more := map[string]V{wayPublished: v}
	for way, v := range all {
		more[way] = v
	}
	return more
}

func (m *Manager) unpublish(ctx context.Context, id string) error {
	if m.opts.Ports == nil {
		return nil
	}
	return m.opts.Ports.Unpublish(ctx, id)
}

// published lists the clones that have ports of the host.
func (m *Manager) published(ctx context.Context) ([]string, error) {
	if m.opts.Ports == nil {
		return nil, nil
	}
	return m.opts.Ports.Published(ctx)
}

// reconcilePorts takes ports back of which no clone's user was told, and publishes again
// whose successor had taken them when the process died.
func (m *Manager) reconcilePorts(ctx context.Context) error {
	ids, err := m.published(ctx)
	errs := []error{err}
	for _, id := range ids {
		m.mu.Lock()
		c := m.clones[id]
		told := c != nil && len(c.rec.Published) > 0
		m.mu.Unlock()
		if !told {
			errs = append(errs, m.unpublish(ctx, id))
		}
	}
	if err != nil || m.opts.Ports == nil {
		return errors.Join(errs...)
	}
	for _, c := range m.labelled(access.Daemon, nil) {
		if !slices.Contains(ids, c.id) {
			errs = append(errs, m.publishAgain(ctx, c, ""))
		}
	}
	return errors.Join(errs...)
}
