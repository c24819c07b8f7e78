package manager

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Interfaces attaches namespaces in use to further networks: see [attach.Attacher].
type Interfaces interface {
	Attach(ctx context.Context, id, path string, r network.AttachRequest) (network.Attachment, error)
	Detach(ctx context.Context, id, path, ifName string) error
	List(id string) ([]network.Attachment, error)
	MayHave(path, ifName string) bool
	Reconcile(ctx context.Context, keep []string) error
}

// mayAttach says who may put a clone into networks of the host, or take it out: none of what keeps clones apart holds
// there.
func (l *planner) mayAttach(caller access.Caller) error {
	switch {
	case l.opts.Interfaces == nil:
		return fmt.Errorf("attach interface: this daemon attaches none: %w", errdefs.ErrNotImplemented)
	case l.isNetworkAdmin(caller):
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("interfaces on networks of the host are for its administrators: %w", errdefs.ErrPermissionDenied),
		"ask root, or have network.admin_group configured")
}

func (l *planner) isNetworkAdmin(caller access.Caller) bool {
	return caller.IsRoot() || (l.opts.IsNetworkAdmin != nil && l.opts.IsNetworkAdmin(caller))
}

// Attach gives a clone that runs a further interface.
func (m *Manager) Attach(ctx context.Context, caller access.Caller, id string, req api.AttachRequest) (api.Attachment, error) {
	if err := m.planner.mayAttach(caller); err != nil {
		return api.Attachment{}, err
	}
	c, err := m.registry.running(caller, id)
	if err != nil {
		return api.Attachment{}, err
	}
	seen, err := m.interfaces.attach(ctx, c, attachRequest(req))
	if err != nil {
		return api.Attachment{}, err
	}
	m.log.InfoContext(ctx, "interface attached", "clone", c.id, "interface", seen.IfName, "type", seen.Type, "master", seen.Master, "by", caller.Name)
	return seen.wire(), nil
}

func attachRequest(r api.AttachRequest) network.AttachRequest {
	return network.AttachRequest{Type: r.Type, Master: r.Master, IP: r.IP, Gateway: r.Gateway, MAC: r.MAC, VLAN: r.VLAN, IfName: r.IfName}
}

// Detach takes an interface away that was attached.
func (m *Manager) Detach(ctx context.Context, caller access.Caller, id, ifName string) error {
	if err := m.planner.mayAttach(caller); err != nil {
		return err
	}
	c, err := m.registry.find(caller, id)
	if err != nil {
		return err
	}
	if err := m.interfaces.detach(ctx, c, ifName); err != nil {
		return err
	}
	m.log.InfoContext(ctx, "interface detached", "clone", c.id, "interface", ifName, "by", caller.Name)
	return nil
}

// Interfaces lists the interfaces of a clone that runs.
func (m *Manager) Interfaces(_ context.Context, caller access.Caller, id string) ([]api.Interface, error) {
	c, err := m.registry.running(caller, id)
	if err != nil {
		return nil, err
	}
	found, err := netns.Interfaces(c.namespace())
	if err != nil {
		return nil, fmt.Errorf("clone %s: %w", c.id, err)
	}
	attached := c.record().Attached
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
