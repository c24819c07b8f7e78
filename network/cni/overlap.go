package cni

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// overlap says what route of this host, in any table, overlaps a range, but for
// those of links that own says are the network's. Default routes, also the
// halves that VPNs use instead, overlap everything and say nothing.
func overlap(p netip.Prefix, own func(link string) bool) (string, error) {
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	routes, err := netns.List(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, all, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		dst, err := netip.ParsePrefix(r.Dst.String())
		if err != nil || dst.Bits() <= 1 || !dst.Overlaps(p) {
			continue
		}
		link := "?"
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			link = l.Attrs().Name
		}
		if !own(link) {
			return fmt.Sprintf("route %s dev %s", dst, link), nil
		}
	}
	return "", nil
}
