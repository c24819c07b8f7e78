package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/bridge"
	"github.com/ctrsnap/ctrsnap/network/flannel"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// flannelBridge names the bridge of the flannel network that is built in. Each
// lease has one of its own: the plugin gives a bridge no second address, and
// clones of an old lease keep theirs.
func flannelBridge(env flannel.Env) string {
	return fmt.Sprintf("ctrfl%08x", crc32.ChecksumIEEE([]byte(env.String())))
}

// ranged is the part of a plugin's configuration that says which addresses the
// host's end of its links gets.
type ranged struct {
	Type             string
	Bridge           string
	IsGateway        bool
	IsDefaultGateway bool
	IPAM             struct {
		Subnet string
		Ranges [][]struct{ Subnet string }
	}
}

// checkRanges refuses ranges that the host routes elsewhere: what it sends to
// clones would never arrive. Where the host has no address on the network, as
// on a LAN that a bridge leads to, the routes are the host's own affair.
func (n *Network) checkRanges(c Conf) error {
	list, err := c.current()
	if err != nil {
		return err
	}
	for _, p := range list.Plugins {
		doc := p.Bytes
		if p.Network.Type == flannel.Type {
			if doc = rendered(c, p); doc == nil {
				continue
			}
		}
		var r ranged
		if json.Unmarshal(doc, &r) != nil || r.Type != "bridge" || (!r.IsGateway && !r.IsDefaultGateway) {
			continue // a form that it has not is the plugin's to refuse
		}
		if err := n.checkBridge(c, r); err != nil {
			return err
		}
	}
	return nil
}

// rendered returns what a flannel plugin delegates, or nil: it says itself why
// it cannot.
func rendered(c Conf, p *libcni.PluginConfig) []byte {
	f, err := flannel.ParseConf(p.Bytes)
	if err != nil {
		return nil
	}
	env, err := flannel.ReadEnv(f.SubnetFile)
	if err != nil {
		return nil
	}
	f.Name = c.Name
	doc, err := f.Render(env)
	if err != nil {
		return nil
	}
	return doc
}

func (n *Network) checkBridge(c Conf, r ranged) error {
	if r.Bridge == "" {
		r.Bridge = "cni0" // the plugin's default
	}
	subnets := []string{r.IPAM.Subnet}
	for _, set := range r.IPAM.Ranges {
		for _, one := range set {
			subnets = append(subnets, one.Subnet)
		}
	}
	for _, s := range subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil || !p.Addr().Is4() {
			continue
		}
		what, err := overlap(p.Masked(), func(link string) bool {
			return link == r.Bridge || len(c.leases) > 0 && strings.HasPrefix(link, "flannel")
		})
		if err != nil {
			return err
		}
		if what != "" {
			return network.WithHint(
				fmt.Errorf("network %s: range %s overlaps %s: %w", c.Name, s, what, errdefs.ErrFailedPrecondition),
				"choose a range that this host does not route elsewhere")
		}
	}
	return nil
}

// claimBridge notes on the bridge of a flannel network that it is ours to delete.
func (n *Network) claimBridge(r *types100.Result) error {
	for _, i := range r.Interfaces {
		if i.Sandbox != "" || !strings.HasPrefix(i.Name, "ctrfl") {
			continue
		}
		link, err := netlink.LinkByName(i.Name)
		if err == nil && link.Attrs().Alias == "" {
			err = netlink.LinkSetAlias(link, bridge.OwnerAlias(n.opts.StateDir))
		}
		if err != nil {
			return fmt.Errorf("claim bridge %s: %w", i.Name, err)
		}
	}
	return nil
}

// deleteBridges deletes the bridges that are ours and that nobody uses, but
// for the one of the name keep.
func (n *Network) deleteBridges(keep string) error {
	links, err := netns.List(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	used := map[int]bool{}
	for _, l := range links {
		used[l.Attrs().MasterIndex] = true
	}
	var errs []error
	for _, l := range links {
		a := l.Attrs()
		if l.Type() == "bridge" && strings.HasPrefix(a.Name, "ctrfl") && a.Name != keep && a.Alias == bridge.OwnerAlias(n.opts.StateDir) && !used[a.Index] {
			errs = append(errs, netlink.LinkDel(l))
		}
	}
	return errors.Join(errs...)
}
