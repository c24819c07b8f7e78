package manager

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestPeers: the owner's builds get a lease by which they reach a clone, its peers' if it has any.
func TestPeers(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	c := create(t, m, api.CloneRequest{}).Clones[0]
	addr := netip.MustParseAddr("10.0.0.7")
	lease, err := m.Peers(t.Context(), access.Daemon, addr)
	if err != nil || lease != "clone "+c.ID {
		t.Errorf("of a clone by itself: %q, %v", lease, err)
	}
	if lease, err := m.Peers(t.Context(), access.Daemon, netip.MustParseAddr("::ffff:10.0.0.7")); err != nil || lease != "clone "+c.ID {
		t.Errorf("by the mapped address: %q, %v", lease, err)
	}
	if lease, err := m.Peers(t.Context(), access.User("eve", 4242), addr); lease != "" || !errdefs.IsPermissionDenied(err) {
		t.Errorf("of another's clone: %q, %v", lease, err)
	}
	if lease, err := m.Peers(t.Context(), access.Daemon, netip.MustParseAddr("192.0.2.1")); lease != "" || err != nil {
		t.Errorf("of no clone: %q, %v", lease, err)
	}
	one := m.registry.get(c.ID)
	one.change(func(r *record) { r.Peers = "job" })
	if lease, err := m.Peers(t.Context(), access.Daemon, addr); err != nil || lease != "job" {
		t.Errorf("of a clone with peers: %q, %v", lease, err)
	}
}
