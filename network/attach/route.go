package attach

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// ownMetric is that of the clone's own default route while another one leads
// elsewhere; the kernel's for IPv6 routes is 1024 unless told otherwise. When
// the other one goes, with its interface, it is the only one again.
const ownMetric = 2048

func family(addr string) int {
	if a, err := netip.ParseAddr(addr); err == nil && a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// demote has the default routes of the namespace at path give way to one that
// is to come.
func demote(path, gateway string) error {
	if gateway == "" {
		return nil
	}
	err := netns.Inside(path, func() error {
		routes, err := netlink.RouteList(nil, family(gateway))
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.Gw == nil || r.Priority >= ownMetric {
				continue
			}
			worse := netlink.Route{LinkIndex: r.LinkIndex, Dst: r.Dst, Gw: r.Gw, Priority: ownMetric, Protocol: r.Protocol, Flags: r.Flags & int(netlink.FLAG_ONLINK)}
			if err := netlink.RouteAdd(&worse); err != nil {
				return fmt.Errorf("add %s: %w", worse, err)
			}
			if err := netlink.RouteDel(&r); err != nil {
				return fmt.Errorf("delete %s: %w", r, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("have default routes give way to gateway %s: %w", gateway, err)
	}
	return nil
}
