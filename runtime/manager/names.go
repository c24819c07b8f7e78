package manager

import (
	"cmp"
	"net/netip"
	"strings"

	"github.com/ctrsnap/ctrsnap/network/dns"
)

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

// namesIn says by which names of a zone others find a clone, the first of them its own alone; none in "".
func (r *record) namesIn(zone string) (names []string) {
	if zone == "" || len(r.Networks) > 0 || !r.Addr.IsValid() {
		return nil
	}
	names = []string{cmp.Or(r.Name, r.ID) + "." + zone}
	if r.Peers != "" {
		names = append(names, r.Golden+"."+strings.ToLower(r.Peers)+"."+zone)
	}
	return names
}
