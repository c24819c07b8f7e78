package bridge

import (
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
)

// candidates are tried for an automatic subnet. A /22 has as many addresses as
// a Linux bridge has ports. They come from different private ranges, since
// hosts tend to route one of those as a whole.
var candidates = []netip.Prefix{
	netip.MustParsePrefix("10.213.0.0/22"),
	netip.MustParsePrefix("172.29.212.0/22"),
	netip.MustParsePrefix("192.168.212.0/22"),
	netip.MustParsePrefix("10.213.4.0/22"),
	netip.MustParsePrefix("172.29.216.0/22"),
	netip.MustParsePrefix("192.168.216.0/22"),
	netip.MustParsePrefix("10.213.8.0/22"),
	netip.MustParsePrefix("10.213.12.0/22"),
	netip.MustParsePrefix("10.213.16.0/22"),
	netip.MustParsePrefix("10.213.20.0/22"),
	netip.MustParsePrefix("198.18.212.0/22"), // RFC 2544, for benchmarks
}

// taken is a range that the host uses.
type taken struct {
	prefix netip.Prefix
	what   string // "route 10.0.0.0/8 via 192.0.2.1 dev eth0"
}

func checkSubnet(p netip.Prefix) error {
	if !p.IsValid() || (p.Addr().Is4() && p.Bits() >= 8 && p.Bits() <= 29 && p == p.Masked()) {
		return nil
	}
	return network.WithHint(
		fmt.Errorf("invalid subnet %s: %w", p, errdefs.ErrInvalidArgument),
		"use the first address of an IPv4 range from /8 to /29, as in 10.213.0.0/22")
}

// choose returns the wanted subnet, or the first candidate if want is zero,
// that overlaps nothing of used. skip hears of candidates passed over.
func choose(want netip.Prefix, used []taken, skip func(netip.Prefix, taken)) (netip.Prefix, error) {
	if want.IsValid() {
		if t, ok := overlap(want, used); ok {
			return want, network.WithHint(
				fmt.Errorf("subnet %s overlaps %s: %w", want, t.what, errdefs.ErrFailedPrecondition),
				"configure another subnet, or none to have one chosen")
		}
		return want, nil
	}
	for _, c := range candidates {
		t, ok := overlap(c, used)
		if !ok {
			return c, nil
		}
		skip(c, t)
	}
	return netip.Prefix{}, network.WithHint(
		fmt.Errorf("all %d subnets tried overlap routes of this host: %w", len(candidates), errdefs.ErrResourceExhausted),
		"configure a subnet")
}

func overlap(p netip.Prefix, used []taken) (taken, bool) {
	for _, t := range used {
		if p.Overlaps(t.prefix) {
			return t, true
		}
	}
	return taken{}, false
}

// usedRanges lists what the host routes, in any table, and its addresses, but
// for those of the link own. Default routes, also the halves that VPNs use
// instead, overlap everything and say nothing.
func usedRanges(own int) ([]taken, error) { return ranges(netlink.FAMILY_V4, own) }

func ranges(family, own int) ([]taken, error) {
	routes, err := routes(family)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var used []taken
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 1 && r.LinkIndex != own {
			used = append(used, taken{p, describe(r, p)})
		}
	}
	addrs, err := addrsOf(nil, family)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && a.LinkIndex != own {
			used = append(used, taken{p.Masked(), fmt.Sprintf("address %s dev %s", p, linkName(a.LinkIndex))})
		}
	}
	return used, nil
}

func describe(r netlink.Route, p netip.Prefix) string {
	s := "route " + p.String()
	if r.Gw != nil {
		s += " via " + r.Gw.String()
	}
	if r.LinkIndex != 0 {
		s += " dev " + linkName(r.LinkIndex)
	}
	return s
}
