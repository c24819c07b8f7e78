package bridge

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network/netns"
)

// takeUp finds the bridges and ports of an earlier process. A bridge that does
// not fit the configuration is deleted if it is empty, else it serves those who
// are in it and nobody else.
func (n *Network) takeUp(ctx context.Context) error {
	links, err := netns.List(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	ports := map[int][]netlink.Link{}
	for _, l := range links {
		ports[l.Attrs().MasterIndex] = append(ports[l.Attrs().MasterIndex], l)
	}
	for _, br := range links {
		a := br.Attrs()
		if br.Type() != "bridge" || a.Alias != OwnerAlias(n.opts.StateDir) {
			continue
		}
		if err := n.takeUpBridge(ctx, br, ports[a.Index]); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) takeUpBridge(ctx context.Context, br netlink.Link, ports []netlink.Link) error {
	cfg := n.config()
	cfg.Name = br.Attrs().Name
	addrs, err := ipv4Addrs(br)
	if err != nil {
		return err
	}
	if len(addrs) > 0 {
		have, _ := prefixOf(addrs[0].IPNet)
		cfg.Subnet = have.Masked()
	}
	fits := n.fits(cfg.Subnet)
	if !fits && len(ports) == 0 {
		return netlink.LinkDel(br)
	}
	l, err := n.claim(ctx, cfg)
	if err != nil {
		return err
	}
	n.mu.Lock()
	l.closed = !fits
	n.mu.Unlock()
	for _, p := range ports {
		if err := n.takeUpPort(l, p); err != nil {
			return err
		}
	}
	return nil
}
