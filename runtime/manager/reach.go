package manager

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime/access"
)

// Peers returns the network lease by which a namespace reaches the caller's clone at addr; "" where no clone has it. An address of
// somebody else's clone is PermissionDenied.
//
// A clone that is by itself gets a lease of its own for that, and keeps it: nobody is told its name but who owns the clone.
func (m *Manager) Peers(ctx context.Context, caller access.Caller, addr netip.Addr) (string, error) {
	c := m.registry.at(addr)
	if c == nil {
		return "", nil
	}
	rec := c.record()
	if !caller.May(rec.OwnerUID) {
		return "", fmt.Errorf("%s is no clone of yours: %w", addr, errdefs.ErrPermissionDenied)
	}
	if rec.Peers != "" {
		return rec.Peers, nil
	}
	own := "clone " + c.id
	if err := m.opts.Network.Assign(ctx, c.id, network.Options{Lease: own, Egress: rec.Egress}); err != nil {
		return "", fmt.Errorf("reach clone %s: %w", c.id, err)
	}
	return own, nil
}

// at returns the clone that has an address, or nil.
func (r *registry) at(addr netip.Addr) *clone {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clones {
		if rec := c.record(); rec.Addr == addr.Unmap() || slices.Contains(rec.Addrs, addr.Unmap()) {
			return c
		}
	}
	return nil
}
