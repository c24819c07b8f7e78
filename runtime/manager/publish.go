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
func (l *planner) ports(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		if len(req.Publish) == 0 {
			return nil
		}
		if l.opts.Ports == nil {
			return fmt.Errorf("publish clone: this daemon publishes none: %w", errdefs.ErrNotImplemented)
		}
		if len(req.Publish) > publish.MaxAddresses {
			return fmt.Errorf("%d addresses to publish at are more than %d: %w", len(req.Publish), publish.MaxAddresses, errdefs.ErrInvalidArgument)
		}
		for _, s := range req.Publish {
			a, err := publish.Parse(s)
			if err == nil {
				err = l.mayPublish(p, a)
			}
			if err != nil {
				return err
			}
			p.publish = append(p.publish, a)
		}
		return nil
	}
}

// mayPublish refuses a port that one cannot have: callers get none by this daemon that they would not get by a server
// of their own.
func (l *planner) mayPublish(p *plan, a publish.Address) error {
	switch {
	case a.Port > 0 && p.count > 1:
		return snapshot.WithHint(
			fmt.Errorf("port %d is for one clone, not for %d: %w", a.Port, p.count, errdefs.ErrInvalidArgument),
			"publish at 0: each gets a free port")
	case a.Port > 0 && int(a.Port) < firstFreePort() && !l.isNetworkAdmin(p.caller):
		return snapshot.WithHint(
			fmt.Errorf("ports below %d are for administrators of this host: %w", firstFreePort(), errdefs.ErrPermissionDenied),
			"choose a higher port, or 0 for a free one")
	}
	return nil
}

// firstFreePort is the first one that a process needs no privilege for: see ip_unprivileged_port_start in the kernel's
// ip-sysctl.
func firstFreePort() int {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if n, convErr := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && convErr == nil {
		return n
	}
	return 1024
}

// ports are ports of the host that lead to clones: see [extra].
type ports struct {
	Ports
	registry *registry
}

var _ extra = (*ports)(nil)

func (*ports) name() string { return "ports" }

func (x *ports) take(ctx context.Context, id, _ string) error { return x.Unpublish(ctx, id) }

func (x *ports) give(ctx context.Context, want *plan, c, old *clone, back *undo.Stack) error {
	if len(want.publish) == 0 {
		return nil
	}
	if !c.record().Addr.IsValid() {
		return snapshot.WithHint(
			fmt.Errorf("publish clone: it has no address: %w", errdefs.ErrInvalidArgument), "leave --network none away")
	}
	instead := ""
	if old != nil {
		instead = old.id
	}
	got, err := x.Publish(ctx, c.id, instead, want.publish, c.at())
	if err != nil {
		return err
	}
	if old != nil {
		back.Add("publish clone "+old.id+" again", func(ctx context.Context) error { return x.again(ctx, old, c.id) })
	}
	conn, err := c.engine.Connect(c.golden, publishedEndpoint(c, got[0]))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return x.registry.update(ctx, c, func(r *record) {
		r.URLs, r.Env = with(r.URLs, conn.URLs["tcp"]), with(r.Env, conn.Env["tcp"])
		for _, a := range got {
			r.Published = append(r.Published, a.String())
		}
	})
}

// at is where the server of a clone listens.
func (c *clone) at() netip.AddrPort {
	rec := c.record()
	return netip.AddrPortFrom(rec.Addr, uint16(rec.Port)) //nolint:gosec // it is a port
}

// again gives a clone back the ports that its record tells of, which instead may have now.
func (x *ports) again(ctx context.Context, c *clone, instead string) error {
	told := c.record().Published
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
	if _, err := x.Publish(ctx, c.id, instead, at, c.at()); err != nil {
		return err
	}
	if isClosed(c.gone) { // its teardown may have looked before
		return x.Unpublish(ctx, c.id)
	}
	return nil
}

// publishedEndpoint is how this host reaches a clone by its published port.
func publishedEndpoint(c *clone, at netip.AddrPort) runtime.Endpoint {
	ep := runtime.Endpoint{Addr: at.Addr(), Port: int(at.Port())}
	if at.Addr().IsUnspecified() {
		ep.Addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	ep.Password = c.ownPassword()
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

func (x *ports) reconcile(ctx context.Context, live []*clone, others map[string]bool) error {
	have, err := x.Published(ctx)
	if err != nil {
		return err
	}
	var errs []error
	published := map[string]bool{}
	for _, c := range live {
		published[c.id] = len(c.record().Published) > 0
	}
	for _, id := range have {
		if !published[id] && !others[id] {
			errs = append(errs, x.Unpublish(ctx, id))
		}
	}
	for _, c := range live {
		if slices.Contains(have, c.id) {
			continue
		}
		if err := x.again(ctx, c, ""); err != nil {
			errs = append(errs, fmt.Errorf("publish clone %s again: %w", c.id, err))
		}
	}
	return errors.Join(errs...)
}
