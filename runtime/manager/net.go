package manager

import "net/netip"

// isOutdated says whether a member waits at an address that the network does
// not have any more: it runs, but is not to be handed out.
func (m *Manager) isOutdated(c *clone) bool {
	n, ok := m.opts.Network.(interface{ Outdated(netip.Addr) bool })
	return ok && c.rec.Addr.IsValid() && n.Outdated(c.rec.Addr)
}
