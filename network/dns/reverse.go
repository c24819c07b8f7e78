package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// reverse answers for the name of an address. Where it is this server's own, it
// is the zone's.
func (r *reply) reverse(v view, a netip.Addr, zone string, own bool) {
	clones := v.of(v.addrs[a])
	for _, c := range clones {
		r.pointer(c.host())
	}
	if own {
		r.pointer(Zone)
	}
	r.end(zone, v.version, own || len(clones) > 0)
}

func (r *reply) pointer(host string) {
	switch r.Question[0].Qtype {
	case dns.TypePTR:
		r.add(&dns.PTR{Ptr: host}, dns.TypePTR)
	case dns.TypeANY:
		r.any()
	}
}

// parseReverse returns the address that a name is of, and the name of the /24 or
// the /64 around it, which stands for the zone. See RFC 1035, section 3.5, and
// RFC 3596, section 2.5.
func parseReverse(name string) (a netip.Addr, zone string, ok bool) {
	if rest, found := strings.CutSuffix(name, ".in-addr.arpa."); found {
		labels := strings.Split(rest, ".")
		if len(labels) != 4 {
			return a, "", false
		}
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		_, zone, _ = strings.Cut(name, ".")
		return a, zone, err == nil && a.Is4()
	}
	rest, found := strings.CutSuffix(name, ".ip6.arpa.")
	if !found || len(rest) != 63 {
		return a, "", false
	}
	var b [16]byte
	for i := range 32 {
		nibble, err := strconv.ParseUint(rest[2*i:2*i+1], 16, 4)
		if err != nil || i > 0 && rest[2*i-1] != '.' {
			return a, "", false
		}
		b[15-i/2] |= byte(nibble) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), name[32:], true
}
