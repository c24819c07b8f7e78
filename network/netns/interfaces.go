package netns

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// Interface is what the kernel says of an interface.
type Interface struct {
	Name      string
	MAC       string
	MTU       int // bytes
	Up        bool
	Addresses []string // with prefix length; no link-local IPv6
	Gateways  []string // of default routes
}

// Interfaces lists those of the namespace at path, but for loopback.
func Interfaces(path string) (all []Interface, _ error) {
	err := Inside(path, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if l.Attrs().Flags&net.FlagLoopback != 0 {
				continue
			}
			i, err := describe(l)
			if err != nil {
				return err
			}
			all = append(all, i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return all, nil
}

func describe(l netlink.Link) (Interface, error) {
	a := l.Attrs()
	i := Interface{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return i, err
	}
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			i.Addresses = append(i.Addresses, addr.IPNet.String())
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(l, family)
		if err != nil {
			return i, err
		}
		for _, r := range routes {
			if r.Gw != nil && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
				i.Gateways = append(i.Gateways, r.Gw.String())
			}
		}
	}
	return i, nil
}
