package manager

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/network/dns"
)

var _ dns.Directory = (*Manager)(nil)

// NamesVersion changes when clones come and go. It takes no lock.
func (m *Manager) NamesVersion() uint64 { return m.namesVersion.Load() }

// Names are the clones that are handed out, as others find them: oldest first.
func (m *Manager) Names() []dns.Clone {
	m.mu.Lock()
	recs := make([]record, 0, len(m.clones))
	for _, c := range m.clones {
		rec := c.rec
		if m.names[c.name()] != c { // its successor has it
			rec.Name = ""
		}
		recs = append(recs, rec)
	}
	m.mu.Unlock()
	slices.SortFunc(recs, func(a, b record) int { return a.CreatedAt.Compare(b.CreatedAt) })
	list := make([]dns.Clone, len(recs))
	for i, r := range recs {
		list[i] = r.describe()
	}
	return list
}

// describe says what others may know of a clone.
func (r *record) describe() dns.Clone {
	c := dns.Clone{
		ID: r.ID, Name: r.Name, Golden: r.Golden, Lease: r.Peers, Addrs: r.Addrs, Owner: r.OwnerUID,
		Port: uint16(r.Port), Egress: r.Egress, Local: len(r.Networks) == 0, //nolint:gosec // it is a port
	}
	c.Service, _, _ = strings.Cut(r.URLs["tcp"], ":") // the scheme is the registered name
	if c.Addrs == nil && r.Addr.IsValid() {           // made by a version that knew no more
		c.Addrs, c.Lease = []netip.Addr{r.Addr}, r.LeaseID
	}
	return c
}

// named says by which names others find a clone, the first of them its own alone.
func (m *Manager) named(r *record) (names []string) {
	if m.opts.Zone == "" || len(r.Networks) > 0 || !r.Addr.IsValid() {
		return nil
	}
	names = []string{cmp.Or(r.Name, r.ID) + "." + m.opts.Zone}
	if r.Peers != "" {
		names = append(names, r.Golden+"."+strings.ToLower(r.Peers)+"."+m.opts.Zone)
	}
	return names
}

// resolvConf returns the mount that has a clone ask for names at the right place.
func (s *starter) resolvConf(ctx context.Context) []specs.Mount {
	if s.opts.ResolvConf == nil || s.want.networks != "" || !s.clone.rec.Addr.IsValid() {
		return nil
	}
	file := s.opts.ResolvConf(ctx, s.clone.rec.Addr)
	if file == "" {
		return nil
	}
	return []specs.Mount{{
		Destination: "/etc/resolv.conf", Type: "bind", Source: file,
		Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
	}}
}
