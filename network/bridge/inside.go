package bridge

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// setUpInside gives the clone its addresses and the host for all that is
// elsewhere: what it reaches there is the firewall's to say, which answers at
// once where a missing route would, but can change its mind.
func (n *Network) setUpInside(p port, ns *os.File) error {
	h, err := netlink.NewHandleAt(vns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter namespace: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("find %s: %w", ifName, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", ifName, err)
	}
	n.mu.Lock()
	mac := p.lan.mac
	n.mu.Unlock()
	gateways := []netip.Addr{p.lan.bridge.Gateway(), p.lan.bridge.Gateway6()}
	for i, a := range p.addrs() {
		if err := addressInside(h, link, a, gateways[i], mac); err != nil {
			return err
		}
	}
	return nil
}

// addressInside gives a link an address, and a gateway whose hardware address
// is known.
func addressInside(h *netlink.Handle, link netlink.Link, a, gateway netip.Addr, mac net.HardwareAddr) error {
	addr := &netlink.Addr{IPNet: host(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD // nobody else can have it
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s address %s: %w", ifName, a, err)
	}
	index := link.Attrs().Index
	if err := h.NeighSet(neighbour(index, gateway, mac)); err != nil {
		return fmt.Errorf("give %s the gateway %s: %w", ifName, gateway, err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
		return fmt.Errorf("give %s a route by %s: %w", ifName, gateway, err)
	}
	return nil
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}
