package cni

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/containerd/errdefs"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxBridges bounds the names that an automatic bridge tries.
const maxBridges = 64

// bridge is the host's end of the default network.
type bridge struct {
	name   string
	owner  string // alias of the link, says whose it is
	subnet netip.Prefix
}

// openBridge claims a bridge and gives it the first address of a subnet, or
// takes up the one that is there.
func openBridge(ctx context.Context, opts Options) (*bridge, error) {
	unlock, err := lockHostNetwork(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	owner := ownerAlias(opts.StateDir)
	link, made, err := claimBridge(opts.Bridge, owner)
	if err != nil {
		return nil, err
	}
	b := &bridge{name: link.Attrs().Name, owner: owner}
	if err := b.address(ctx, link, opts); err != nil {
		if made {
			err = errors.Join(err, netlink.LinkDel(link))
		}
		return nil, err
	}
	return b, nil
}

// lockHostNetwork keeps daemons that start at the same time from choosing the
// same subnet: a flock on the network namespace itself, of which they all have
// one. Anyone can take that lock, so it is not waited for long.
func lockHostNetwork(ctx context.Context) (unlock func(), _ error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || time.Now().After(deadline) {
			return func() { _ = f.Close() }, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// ownerAlias is what a bridge of the daemon with this state directory carries.
// The kernel keeps 255 bytes of it.
func ownerAlias(stateDir string) string {
	return "ctrsnap " + stateDir[max(0, len(stateDir)-240):]
}

// claimBridge makes a bridge, or finds the one that owner made before.
func claimBridge(name, owner string) (_ netlink.Link, made bool, _ error) {
	if name != "" {
		return claimName(name, owner)
	}
	for i := range maxBridges {
		link, made, err := claimName(fmt.Sprintf("ctrsnap%d", i), owner)
		if !errdefs.IsFailedPrecondition(err) {
			return link, made, err
		}
	}
	return nil, false, fmt.Errorf("all of ctrsnap0 to ctrsnap%d belong to others: %w", maxBridges-1, errdefs.ErrResourceExhausted)
}

func claimName(name, owner string) (_ netlink.Link, made bool, _ error) {
	err := addBridge(name, owner)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, false, fmt.Errorf("make bridge %s: %w", name, err)
	}
	made = err == nil
	link, err := linkByName(name)
	if err != nil {
		return nil, false, fmt.Errorf("find bridge %s: %w", name, err)
	}
	if !made && halfMade(link) {
		err = netlink.LinkSetAlias(link, owner)
		return link, true, err
	}
	if a := link.Attrs(); a.Alias != owner || link.Type() != "bridge" {
		return nil, false, withHint(
			fmt.Errorf("link %s (%s %q) is not this daemon's: %w", name, link.Type(), a.Alias, errdefs.ErrFailedPrecondition),
			"configure another name for the bridge, or none to have one chosen")
	}
	return link, made, nil
}

// addBridge makes the link and says whose it is. A hardware address of its own
// keeps it from following that of the ports, which come and go.
func addBridge(name, owner string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.HardwareAddr = make(net.HardwareAddr, 6)
	_, _ = rand.Read(attrs.HardwareAddr)
	attrs.HardwareAddr[0] = attrs.HardwareAddr[0]&^1 | 2 // unicast, locally administered
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, owner); err != nil {
		return errors.Join(err, netlink.LinkDel(link))
	}
	return nil
}

// halfMade recognises a bridge whose maker died before it set the alias, which
// the kernel does not take when a link is made: nobody's, without an address or
// a port, and never up.
func halfMade(link netlink.Link) bool {
	a := link.Attrs()
	if link.Type() != "bridge" || a.Alias != "" || a.Flags&net.FlagUp != 0 {
		return false
	}
	addrs, err := ipv4Addrs(link)
	if err != nil || len(addrs) > 0 {
		return false
	}
	ports, err := portsOf(link)
	return err == nil && ports == 0
}

// address keeps the bridge's subnet or gives it one, and sets it up.
func (b *bridge) address(ctx context.Context, link netlink.Link, opts Options) error {
	kept, err := b.keep(link, opts.Subnet)
	if err != nil {
		return err
	}
	if !kept {
		used, err := usedRanges(link.Attrs().Index)
		if err != nil {
			return err
		}
		b.subnet, err = choose(opts.Subnet, used, func(p netip.Prefix, t taken) {
			opts.Log.InfoContext(ctx, "subnet is taken, trying the next", "subnet", p, "by", t.what)
		})
		if err != nil {
			return err
		}
	}
	return b.up(link)
}

// keep finds the subnet that the bridge has. Another one than wanted is given
// up if nothing is attached.
func (b *bridge) keep(link netlink.Link, want netip.Prefix) (bool, error) {
	addrs, err := ipv4Addrs(link)
	if err != nil || len(addrs) == 0 {
		return false, err
	}
	have, _ := prefixOf(addrs[0].IPNet)
	b.subnet = have.Masked()
	if !want.IsValid() || want == b.subnet {
		return true, nil
	}
	ports, err := portsOf(link)
	if err != nil {
		return false, err
	}
	if ports > 0 {
		return false, withHint(
			fmt.Errorf("bridge %s has subnet %s with %d clones in it, not %s: %w", b.name, b.subnet, ports, want, errdefs.ErrFailedPrecondition),
			"remove the clones before the subnet is changed")
	}
	return false, netlink.AddrDel(link, &addrs[0])
}

// up gives the bridge its address, the first of the subnet, which host-local
// keeps free as the gateway's.
func (b *bridge) up(link netlink.Link) error {
	ip := b.subnet.Addr().Next()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(b.subnet.Bits(), 32)}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give bridge %s address %s: %w", b.name, ip, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set bridge %s up: %w", b.name, err)
	}
	return nil
}

// ensureBridge makes the bridge anew if somebody deleted it: the plugin would,
// but without an address.
func (n *Network) ensureBridge() error {
	if n.bridge == nil {
		return nil
	}
	if _, err := linkByName(n.bridge.name); err == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	link, _, err := claimName(n.bridge.name, n.bridge.owner)
	if err != nil {
		return err
	}
	return n.bridge.up(link)
}

// nameVeth writes the clone's id on the host's end of its link, whose name the
// plugin draws at random.
func (n *Network) nameVeth(id string, r *types100.Result) error {
	if n.bridge == nil {
		return nil
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" || i.Name == n.bridge.name {
			continue
		}
		link, err := linkByName(i.Name)
		if err == nil {
			err = netlink.LinkSetAlias(link, "ctrsnap "+id)
		}
		if err != nil {
			return fmt.Errorf("name link %s: %w", i.Name, err)
		}
	}
	return nil
}

// Teardown deletes the bridge and all state below StateDir that is ours. While
// namespaces exist it fails with FailedPrecondition. It is idempotent; the
// Network is not to be used after.
func (n *Network) Teardown(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		return fmt.Errorf("tear down network: %d namespaces exist (%s …): %w", len(ids), ids[0], errdefs.ErrFailedPrecondition)
	}
	if err := n.deleteBridge(); err != nil {
		return fmt.Errorf("tear down network: %w", err)
	}
	return errors.Join(os.RemoveAll(n.dir("cni")), os.RemoveAll(n.dir("netns")))
}

func (n *Network) deleteBridge() error {
	if n.bridge == nil {
		return nil
	}
	link, err := linkByName(n.bridge.name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	ports, err := portsOf(link)
	if err != nil {
		return err
	}
	if ports > 0 || link.Attrs().Alias != n.bridge.owner {
		return fmt.Errorf("bridge %s is in use, it has %d ports: %w", n.bridge.name, ports, errdefs.ErrFailedPrecondition)
	}
	return netlink.LinkDel(link)
}
