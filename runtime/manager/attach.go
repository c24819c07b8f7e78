package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// interfaces says which further interfaces the clones are to have. It comes after lifetime.
func (l *planner) interfaces(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		if len(req.Attach) == 0 {
			return nil
		}
		if err := l.mayAttach(p.caller); err != nil {
			return err
		}
		if len(req.Attach) > network.MaxAttached {
			return fmt.Errorf("%d further interfaces are more than %d: %w", len(req.Attach), network.MaxAttached, errdefs.ErrInvalidArgument)
		}
		for _, a := range req.Attach {
			r := attachRequest(a)
			if err := r.Check(); err != nil {
				return fmt.Errorf("attach %.20s interface: %w", r.Type, err)
			}
			if p.count > 1 && (r.MAC != "" || fixed(r).IsValid()) {
				return snapshot.WithHint(
					fmt.Errorf("address %s%.20s of an interface is for one clone, not for %d: %w", r.IP, " "+r.MAC, p.count, errdefs.ErrInvalidArgument),
					"ip=ipam and ip=dhcp give each clone one of its own")
			}
			p.attach = append(p.attach, r)
		}
		return nil
	}
}

// fixed is the address that a request wants, zero for any or none.
func fixed(r network.AttachRequest) netip.Addr {
	p, _ := netip.ParsePrefix(r.IP) // checked: else ipam, dhcp or none
	return p.Addr()
}

// interfaces are interfaces that clones have beside their own network's: see [extra].
type interfaces struct {
	Interfaces
	registry *registry
	removals *removal.Queue
	step     func(string) error
}

var _ extra = (*interfaces)(nil)

func (*interfaces) name() string { return "interfaces" }

func (x *interfaces) give(ctx context.Context, want *plan, c, old *clone, back *undo.Stack) error {
	for _, r := range want.attach {
		if err := x.takeOver(ctx, old, r, back); err != nil {
			return err
		}
		got, err := x.attach(ctx, c, r)
		if err != nil {
			return err
		}
		back.Add("detach "+got.IfName, func(ctx context.Context) error { return x.detach(ctx, c, got.IfName) })
	}
	if len(want.attach) == 0 {
		return nil
	}
	return x.step("attached")
}

// take takes them while there is a namespace that they can be taken from, if there is: their addresses are free at once
// then, not when the kernel has come to end it.
func (x *interfaces) take(ctx context.Context, id, netns string) error {
	have, err := x.List(id)
	for _, a := range have {
		if derr := x.Detach(ctx, id, netns, a.IfName); derr != nil && !errdefs.IsNotFound(derr) {
			err = errors.Join(err, derr)
		}
	}
	return err
}

// attach gives a clone that runs an interface, and records it. A wanted address may be that of a clone that is on its
// way out: it is waited for.
func (x *interfaces) attach(ctx context.Context, c *clone, req network.AttachRequest) (attachment, error) {
	var att network.Attachment
	err := x.removals.Retry(ctx, func() (err error) {
		att, err = x.Attach(ctx, c.id, c.namespace(), req)
		return err
	}, func(err error) bool { return errdefs.IsAlreadyExists(err) || req.MAC != "" })
	if err != nil {
		return attachment{}, err
	}
	seen := attachment{Type: att.Type, Master: att.Master, IP: att.IP, Gateway: att.Gateway, MAC: att.MAC, VLAN: att.VLAN, IfName: att.IfName}
	err = x.registry.update(ctx, c, func(r *record) {
		r.Attached = append(slices.Clone(r.Attached), seen)
		r.Given = slices.DeleteFunc(slices.Clone(r.Given), func(g attachment) bool { return g == attachment(req) })
	})
	if isClosed(c.gone) { // its teardown may have looked before the interface was there
		err = errors.Join(err, fmt.Errorf("clone %s was removed meanwhile: %w", c.id, errdefs.ErrNotFound))
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return attachment{}, errors.Join(err, x.Detach(undo, c.id, c.namespace(), att.IfName))
	}
	return seen, nil
}

func (x *interfaces) detach(ctx context.Context, c *clone, ifName string) error {
	if err := x.Detach(ctx, c.id, c.namespace(), ifName); err != nil {
		return err
	}
	return x.registry.update(ctx, c, func(r *record) { r.Attached = without(r.Attached, ifName) })
}

func without(all []attachment, ifName string) []attachment {
	return slices.DeleteFunc(slices.Clone(all), func(a attachment) bool { return a.IfName == ifName })
}

// takeOver takes interfaces from a clone that is about to be replaced if they have an address that its successor wants.
// That they were its own is recorded before: it has them back if the successor is not made, also by the next process.
func (x *interfaces) takeOver(ctx context.Context, old *clone, r network.AttachRequest, back *undo.Stack) error {
	if old == nil {
		return nil
	}
	have, err := x.List(old.id)
	if err != nil {
		return err
	}
	for _, a := range have {
		sameMAC := r.MAC != "" && strings.EqualFold(r.MAC, a.MAC)
		sameIP := fixed(r).IsValid() && fixed(r) == fixed(a.Request())
		if !sameMAC && !sameIP {
			continue
		}
		back.Add("give back", func(ctx context.Context) error { return x.takeBack(ctx, old, a.Request()) })
		if err := x.registry.update(ctx, old, func(r *record) {
			r.Attached, r.Given = without(r.Attached, a.IfName), append(slices.Clone(r.Given), attachment(a.Request()))
		}); err != nil {
			return err
		}
		if err := x.Detach(ctx, old.id, old.namespace(), a.IfName); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := x.step("given"); err != nil {
			return err
		}
	}
	return nil
}

// takeBack gives a clone an interface again that was its successor's to be.
func (x *interfaces) takeBack(ctx context.Context, c *clone, r network.AttachRequest) error {
	if c.isDead() || !slices.Contains(c.record().Given, attachment(r)) {
		return nil
	}
	if _, err := x.attach(ctx, c, r); err != nil {
		return fmt.Errorf("give %s back to clone %s: %w", r.IfName, c.id, err)
	}
	return nil
}

// takeAllBack gives a clone back what it had given to a successor that was not made when an earlier process ended. What
// it cannot have any more is forgotten: there is no second try.
func (x *interfaces) takeAllBack(ctx context.Context, c *clone) error {
	given := c.record().Given
	if len(given) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, undoTimeout) // a start does not wait for ever
	defer cancel()
	var errs []error
	for _, r := range given {
		errs = append(errs, x.takeBack(ctx, c, network.AttachRequest(r)))
	}
	return errors.Join(append(errs, x.registry.update(context.WithoutCancel(ctx), c, func(r *record) { r.Given = nil }))...)
}

func (x *interfaces) reconcile(ctx context.Context, live []*clone, others map[string]bool) error {
	keep := slices.Collect(maps.Keys(others))
	for _, c := range live {
		keep = append(keep, c.id)
	}
	errs := []error{x.Reconcile(ctx, keep)}
	for _, c := range live {
		errs = append(errs, x.reconcileOne(ctx, c), x.takeAllBack(ctx, c))
	}
	return errors.Join(errs...)
}

// reconcileOne takes back what an earlier process was attaching to a clone, or detaching, when it ended.
func (x *interfaces) reconcileOne(ctx context.Context, c *clone) error {
	have, err := x.List(c.id)
	if err != nil {
		return err
	}
	told := c.record().Attached
	var errs []error
	have = slices.DeleteFunc(have, func(a network.Attachment) bool {
		if slices.ContainsFunc(told, func(t attachment) bool { return t.IfName == a.IfName }) && x.MayHave(c.namespace(), a.IfName) {
			return false
		}
		errs = append(errs, x.Detach(ctx, c.id, c.namespace(), a.IfName))
		return true
	})
	if len(have) < len(told) {
		errs = append(errs, x.registry.update(ctx, c, func(r *record) {
			r.Attached = slices.DeleteFunc(slices.Clone(r.Attached), func(t attachment) bool {
				return !slices.ContainsFunc(have, func(a network.Attachment) bool { return a.IfName == t.IfName })
			})
		}))
	}
	return errors.Join(errs...)
}
