package manager

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Interfaces attaches namespaces in use to further networks: see
// [attach.Attacher].
type Interfaces interface {
	Attach(ctx context.Context, id, path string, r network.AttachRequest) (network.Attachment, error)
	Detach(ctx context.Context, id, path, ifName string) error
	Forget(ctx context.Context, id string) error
	List(id string) ([]network.Attachment, error)
	MayHave(path, ifName string) bool
	Reconcile(ctx context.Context, keep []string) error
}

// isOutdated says whether a member waits at an address that the network does
// not have any more: it runs, but is not to be handed out.
func (m *Manager) isOutdated(c *clone) bool {
	n, ok := m.opts.Network.(interface{ Outdated(netip.Addr) bool })
	return ok && c.rec.Addr.IsValid() && n.Outdated(c.rec.Addr)
}

// namespace is the path of a clone's network namespace, "" when its server has
// ended.
func (c *clone) namespace() string {
	if c.isDead() {
		return ""
	}
	return fmt.Sprintf("/proc/%d/ns/net", c.task.PID())
}

// mayAttach says who may put a clone into networks of the host, or take it out:
// none of what keeps clones apart holds there.
func (m *Manager) mayAttach(caller access.Caller) error {
	switch {
	case m.opts.Interfaces == nil:
		return fmt.Errorf("attach interface: this daemon attaches none: %w", errdefs.ErrNotImplemented)
	case m.isAdmin(caller):
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("interfaces on networks of the host are for its administrators: %w", errdefs.ErrPermissionDenied),
		"ask root, or have network.admin_group configured")
}

func (m *Manager) isAdmin(caller access.Caller) bool {
	return caller.IsRoot() || (m.opts.IsNetworkAdmin != nil && m.opts.IsNetworkAdmin(caller))
}

// Attach gives a clone that runs a further interface.
func (m *Manager) Attach(ctx context.Context, caller access.Caller, id string, req api.AttachRequest) (api.Attachment, error) {
	if err := m.mayAttach(caller); err != nil {
		return api.Attachment{}, err
	}
	c, err := m.running(caller, id)
	if err != nil {
		return api.Attachment{}, err
	}
	seen, err := m.attachTo(ctx, c, attachRequest(req))
	if err != nil {
		return api.Attachment{}, err
	}
	m.log.InfoContext(ctx, "interface attached", "clone", c.id, "interface", seen.IfName, "type", seen.Type, "master", seen.Master, "by", caller.Name)
	return seen.wire(), nil
}

// attachTo gives a clone that runs an interface, and keeps that it has it. A
// wanted address may be that of a clone that is on its way out: it is waited for.
func (m *Manager) attachTo(ctx context.Context, c *clone, req network.AttachRequest) (attachment, error) {
	att, err := m.opts.Interfaces.Attach(ctx, c.id, c.namespace(), req)
	if (errdefs.IsAlreadyExists(err) || err != nil && req.MAC != "") && len(m.pending()) > 0 {
		if err := m.Drain(ctx); err != nil {
			return attachment{}, err
		}
		att, err = m.opts.Interfaces.Attach(ctx, c.id, c.namespace(), req)
	}
	if err != nil {
		return attachment{}, err
	}
	seen := attachment{Type: att.Type, Master: att.Master, IP: att.IP, Gateway: att.Gateway, MAC: att.MAC, VLAN: att.VLAN, IfName: att.IfName}
	err = m.update(ctx, c, func(r *record) {
		r.Attached = append(slices.Clone(r.Attached), seen)
		r.Given = slices.DeleteFunc(slices.Clone(r.Given), func(g attachment) bool { return g == attachment(req) })
	})
	select {
	case <-c.gone: // its teardown may have looked before the interface was there
		err = errors.Join(err, fmt.Errorf("clone %s was removed meanwhile: %w", c.id, errdefs.ErrNotFound))
	default:
	}
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		return attachment{}, errors.Join(err, m.opts.Interfaces.Detach(undo, c.id, c.namespace(), att.IfName))
	}
	return seen, nil
}

func attachRequest(r api.AttachRequest) network.AttachRequest {
	return network.AttachRequest{Type: r.Type, Master: r.Master, IP: r.IP, Gateway: r.Gateway, MAC: r.MAC, VLAN: r.VLAN, IfName: r.IfName}
}

// Detach takes an interface away that was attached.
func (m *Manager) Detach(ctx context.Context, caller access.Caller, id, ifName string) error {
	if err := m.mayAttach(caller); err != nil {
		return err
	}
	c, err := m.find(caller, id)
	if err != nil {
		return err
	}
	if err := m.detachFrom(ctx, c, ifName); err != nil {
		return err
	}
	m.log.InfoContext(ctx, "interface detached", "clone", c.id, "interface", ifName, "by", caller.Name)
	return nil
}

func (m *Manager) detachFrom(ctx context.Context, c *clone, ifName string) error {
	if err := m.opts.Interfaces.Detach(ctx, c.id, c.namespace(), ifName); err != nil {
		return err
	}
	return m.update(ctx, c, func(r *record) { r.Attached = without(r.Attached, ifName) })
}

func without(all []attachment, ifName string) []attachment {
	return slices.DeleteFunc(slices.Clone(all), func(a attachment) bool { return a.IfName == ifName })
}

// Interfaces lists the interfaces of a clone that runs.
func (m *Manager) Interfaces(_ context.Context, caller access.Caller, id string) ([]api.Interface, error) {
	c, err := m.running(caller, id)
	if err != nil {
		return nil, err
	}
	found, err := netns.Interfaces(c.namespace())
	if err != nil {
		return nil, fmt.Errorf("clone %s: %w", c.id, err)
	}
	attached := m.attached(c)
	all := make([]api.Interface, len(found))
	for i, f := range found {
		all[i] = api.Interface{IfName: f.Name, MAC: f.MAC, MTU: f.MTU, Up: f.Up, Addresses: f.Addresses, Gateways: f.Gateways}
		if n := slices.IndexFunc(attached, func(a attachment) bool { return a.IfName == f.Name }); n >= 0 {
			a := attached[n].wire()
			all[i].Attached = &a
		}
	}
	return all, nil
}

func (m *Manager) attached(c *clone) []attachment {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.rec.Attached
}

// forgetInterfaces is the part of a teardown that is the interfaces'.
func (m *Manager) forgetInterfaces(ctx context.Context, id string) error {
	if m.opts.Interfaces == nil {
		return nil
	}
	return m.opts.Interfaces.Forget(ctx, id)
}

// reconcileInterfaces takes back what an earlier process was attaching, or
// detaching, when it ended: nobody was told of it.
func (m *Manager) reconcileInterfaces(ctx context.Context, containers map[string]bool) error {
	if m.opts.Interfaces == nil {
		return nil
	}
	keep := make([]string, 0, len(containers))
	for id := range containers {
		keep = append(keep, id)
	}
	errs := []error{m.opts.Interfaces.Reconcile(ctx, keep)}
	for _, c := range m.labelled(access.Daemon, nil) {
		errs = append(errs, m.reconcileClone(ctx, c), m.takeAllBack(ctx, c))
	}
	return errors.Join(errs...)
}

func (m *Manager) reconcileClone(ctx context.Context, c *clone) error {
	have, err := m.opts.Interfaces.List(c.id)
	if err != nil {
		return err
	}
	told := m.attached(c)
	var errs []error
	have = slices.DeleteFunc(have, func(a network.Attachment) bool {
		if slices.ContainsFunc(told, func(t attachment) bool { return t.IfName == a.IfName }) && m.opts.Interfaces.MayHave(c.namespace(), a.IfName) {
			return false
		}
		errs = append(errs, m.opts.Interfaces.Detach(ctx, c.id, c.namespace(), a.IfName))
		return true
	})
	if len(have) < len(told) {
		errs = append(errs, m.update(ctx, c, func(r *record) {
			r.Attached = slices.DeleteFunc(slices.Clone(r.Attached), func(t attachment) bool {
				return !slices.ContainsFunc(have, func(a network.Attachment) bool { return a.IfName == t.IfName })
			})
		}))
	}
	return errors.Join(errs...)
}
