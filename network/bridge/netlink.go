package bridge

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// linkByName is a lookup in present kernels and a listing in old ones.
func linkByName(name string) (netlink.Link, error) {
	return netns.List(func() (netlink.Link, error) { return netlink.LinkByName(name) })
}

// ipv4Addrs lists the IPv4 addresses of a link.
func ipv4Addrs(link netlink.Link) ([]netlink.Addr, error) { return addrsOf(link, netlink.FAMILY_V4) }

// addrsOf lists the addresses of a link, or of all with nil.
func addrsOf(link netlink.Link, family int) ([]netlink.Addr, error) {
	return netns.List(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}

// routes lists the routes of all tables.
func routes(family int) ([]netlink.Route, error) {
	all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	return netns.List(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, all, netlink.RT_FILTER_TABLE)
	})
}

// portsOf counts the links that are attached to a bridge.
func portsOf(br netlink.Link) (ports int, _ error) {
	links, err := netns.List(netlink.LinkList)
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		if l.Attrs().MasterIndex == br.Attrs().Index {
			ports++
		}
	}
	return ports, nil
}

// linkName names a link for people.
func linkName(index int) string {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return "(gone)"
	}
	return l.Attrs().Name
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}
