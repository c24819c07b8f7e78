package manager

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// interfaces says which further interfaces the clones are to have. It comes
// after lifetime.
func (m *Manager) interfaces(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		if len(req.Attach) == 0 {
			return nil
		}
		if err := m.mayAttach(p.caller); err != nil {
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

// isComplete says that a clone may be handed out when it has answered. One that
// lacks its interfaces is removed by a restart, which nobody was told of.
func (p *plan) isComplete() bool { return len(p.attach) == 0 }

// attachAll gives clones that were made their interfaces, before anybody hears
// of them. After an error, or a later one, given takes all back, and the caller
// discards the clones.
func (m *Manager) attachAll(ctx context.Context, want *plan, old, clones []*clone, given *undo.Stack) error {
	for i, c := range clones {
		if c == nil || want.isComplete() {
			continue
		}
		for _, r := range want.attach {
			if err := m.takeOver(ctx, old[i], r, given); err != nil {
				return err
			}
			got, err := m.attachTo(ctx, c, r)
			if err != nil {
				return err
			}
			given.Add("detach", func(ctx context.Context) error { return m.detachFrom(ctx, c, got.IfName) })
		}
		if err := m.step("attached"); err != nil {
			return err
		}
		if err := m.update(ctx, c, func(r *record) { r.Ready = true }); err != nil {
			return err
		}
	}
	return nil
}

// takeOver takes interfaces from a clone that is about to be replaced if they
// have an address that its successor wants. That they were its own is recorded before:
// it has them back if the successor is not made, also by the next process.
func (m *Manager) takeOver(ctx context.Context, old *clone, r network.AttachRequest, given *undo.Stack) error {
	if old == nil {
		return nil
	}
	have, err := m.opts.Interfaces.List(old.id)
	if err != nil {
		return err
	}
	for _, a := range have {
		sameMAC := r.MAC != "" && strings.EqualFold(r.MAC, a.MAC)
		sameIP := fixed(r).IsValid() && fixed(r) == fixed(a.Request())
		if !sameMAC && !sameIP {
			continue
		}
		given.Add("give back", func(ctx context.Context) error { return m.takeBack(ctx, old, a.Request()) })
		if err := m.update(ctx, old, func(r *record) {
			r.Attached, r.Given = without(r.Attached, a.IfName), append(slices.Clone(r.Given), attachment(a.Request()))
		}); err != nil {
			return err
		}
		if err := m.opts.Interfaces.Detach(ctx, old.id, old.namespace(), a.IfName); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if err := m.step("given"); err != nil {
			return err
		}
	}
	return nil
}

// takeBack gives a clone an interface again that was its successor's to be.
func (m *Manager) takeBack(ctx context.Context, c *clone, r network.AttachRequest) error {
	if c.isDead() || !slices.Contains(m.given(c), attachment(r)) {
		return nil
	}
	if _, err := m.attachTo(ctx, c, r); err != nil {
		return fmt.Errorf("give %s back to clone %s: %w", r.IfName, c.id, err)
	}
	return nil
}

func (m *Manager) given(c *clone) []attachment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.rec.Given
}

// takeAllBack gives a clone back what it had given to a successor that was not made when an
// earlier process ended. What it cannot have any more is forgotten: there is no second try.
func (m *Manager) takeAllBack(ctx context.Context, c *clone) error {
	given := m.given(c)
	if len(given) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, undoTimeout) // a start does not wait for ever
	defer cancel()
	var errs []error
	for _, r := range given {
		errs = append(errs, m.takeBack(ctx, c, network.AttachRequest(r)))
	}
	return errors.Join(append(errs, m.update(context.WithoutCancel(ctx), c, func(r *record) { r.Given = nil }))...)
}

// freeInterfaces takes interfaces away from a clone that an earlier process has not finished,
// while its namespace is there: the addresses are free at once. The teardown does the rest.
func (m *Manager) freeInterfaces(ctx context.Context, id string) {
	if m.opts.Interfaces == nil {
		return
	}
	have, err := m.opts.Interfaces.List(id)
	if err != nil || len(have) == 0 {
		return
	}
	task, err := m.opts.Runner.Load(ctx, id)
	if err != nil {
		return
	}
	c := &clone{id: id, task: task}
	for _, a := range have {
		_ = m.opts.Interfaces.Detach(ctx, id, c.namespace(), a.IfName)
	}
}

// detachAll takes interfaces away from a clone that ends, while it has a
// namespace that they can be taken from: their addresses are free at once, not
// when the kernel has come to end the namespace. The teardown does it again.
func (m *Manager) detachAll(ctx context.Context, c *clone) {
	if m.opts.Interfaces == nil {
		return
	}
	for _, a := range m.attached(c) {
		_ = m.opts.Interfaces.Detach(ctx, c.id, c.namespace(), a.IfName)
	}
}
