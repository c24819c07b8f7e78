package netns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// containerLinks are the kinds of links behind which a host has containers,
// clones among them.
var containerLinks = []string{"bridge", "veth", "vxlan"}

// ContainerRanges are the ranges of the calling thread's namespace behind which
// there are containers.
func ContainerRanges() ([]netip.Prefix, error) {
	ranges, _, err := hostRanges()
	return ranges, err
}

// HostRanges are those of [ContainerRanges], and all addresses of the namespace.
func HostRanges() ([]netip.Prefix, error) {
	ranges, addrs, err := hostRanges()
	return append(ranges, addrs...), err
}

// rangesFor is how long Containers believes what it has seen: links come and go.
const rangesFor = 5 * time.Second

// Containers knows which addresses containers of this host have, by the links
// behind which they are. It is safe for concurrent use.
type Containers struct {
	mu     sync.Mutex
	looked time.Time
	ranges []netip.Prefix
}

// Have says whether an address is of a container. It looks at the host's links now
// and then: a flood of queries is no flood of those.
func (c *Containers) Have(a netip.Addr) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) > rangesFor {
		if ranges, err := ContainerRanges(); err == nil {
			c.ranges, c.looked = ranges, time.Now()
		}
	}
	return slices.ContainsFunc(c.ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}

func hostRanges() (ranges, addrs []netip.Prefix, _ error) {
	all, err := List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		p, ok := PrefixOf(a.IPNet)
		if !ok || p.Addr().IsLoopback() {
			continue
		}
		addrs = append(addrs, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		if link, err := netlink.LinkByIndex(a.LinkIndex); err == nil && slices.Contains(containerLinks, link.Type()) {
			ranges = append(ranges, p.Masked())
		}
	}
	return ranges, addrs, nil
}

// PrefixOf converts a prefix; false is nil or none.
func PrefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
