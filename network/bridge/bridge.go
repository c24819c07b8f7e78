package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// maxBridges bounds the names that are tried.
const maxBridges = 64

// Config says which bridge to claim. StateDir and Log are required.
type Config struct {
	StateDir string       // says whose the bridge is
	Name     string       // "" takes the first of ctrsnap0, ctrsnap1 … that no other daemon has
	Subnet   netip.Prefix // zero chooses one that no route of the host overlaps
	Log      *slog.Logger

	// skip are bridges of ours that are not to be taken up again.
	skip []string
}

// Bridge is the host's end of a network: a Linux bridge with the first address
// of a subnet, and of one of IPv6. It belongs to a state directory and has the alias
// "ctrsnap STATEDIR".
type Bridge struct {
	Name    string
	Subnet  netip.Prefix
	Subnet6 netip.Prefix // a /64; zero on a host without IPv6
	owner   string
}

// Claim makes a bridge and gives it the first address of a subnet, or takes up
// the one that the same state directory has. An error leaves none behind that
// it made.
//
// Errors: InvalidArgument for a bad subnet, FailedPrecondition for a subnet or
// a name that is taken, ResourceExhausted if no subnet is left; with hints.
func Claim(ctx context.Context, cfg Config) (*Bridge, error) {
	if err := checkSubnet(cfg.Subnet); err != nil {
		return nil, err
	}
	unlock, err := lockHostNetwork(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	owner := OwnerAlias(cfg.StateDir)
	link, made, err := claimLink(cfg, owner)
	if err != nil {
		return nil, err
	}
	b := &Bridge{Name: link.Attrs().Name, owner: owner}
	if err := b.address(ctx, link, cfg); err != nil {
		if made {
			err = errors.Join(err, netlink.LinkDel(link))
		}
		return nil, err
	}
	return b, nil
}

// OwnerAlias is what a bridge of the daemon with this state directory carries.
// The kernel keeps 255 bytes of it.
func OwnerAlias(stateDir string) string {
	return "ctrsnap " + stateDir[max(0, len(stateDir)-240):]
}

// Gateway is the host's address.
func (b *Bridge) Gateway() netip.Addr { return b.Subnet.Addr().Next() }

// claimLink makes a bridge, or finds one that owner made before. A configured
// name is the first one's: further bridges have a number after it.
func claimLink(cfg Config, owner string) (_ netlink.Link, made bool, _ error) {
	for i := range maxBridges {
		name := nth(cfg.Name, i)
		if slices.Contains(cfg.skip, name) {
			continue
		}
		link, made, err := claimName(name, owner)
		if !errdefs.IsFailedPrecondition(err) || name == cfg.Name {
			return link, made, err
		}
	}
	return nil, false, fmt.Errorf("all of %s to %s are taken: %w", nth(cfg.Name, 0), nth(cfg.Name, maxBridges-1), errdefs.ErrResourceExhausted)
}

func nth(name string, i int) string {
	switch {
	case name == "":
		return fmt.Sprintf("ctrsnap%d", i)
	case i == 0:
		return name
	}
	return fmt.Sprintf("%s%d", name, i)
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
		return nil, false, network.WithHint(
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
func (b *Bridge) address(ctx context.Context, link netlink.Link, cfg Config) error {
	kept, err := b.keep(link, cfg.Subnet)
	if err != nil {
		return err
	}
	if !kept {
		used, err := usedRanges(link.Attrs().Index)
		if err != nil {
			return err
		}
		b.Subnet, err = choose(cfg.Subnet, used, func(p netip.Prefix, t taken) {
			cfg.Log.InfoContext(ctx, "subnet is taken, trying the next", "subnet", p, "by", t.what)
		})
		if err != nil {
			return err
		}
	}
	if err := b.address6(link); err != nil {
		return err
	}
	return b.up(link)
}

// keep finds the subnet that the bridge has. Another one than wanted is given
// up if nothing is attached.
func (b *Bridge) keep(link netlink.Link, want netip.Prefix) (bool, error) {
	addrs, err := ipv4Addrs(link)
	if err != nil || len(addrs) == 0 {
		return false, err
	}
	have, _ := prefixOf(addrs[0].IPNet)
	b.Subnet = have.Masked()
	if !want.IsValid() || want == b.Subnet {
		return true, nil
	}
	ports, err := portsOf(link)
	if err != nil {
		return false, err
	}
	if ports > 0 {
		return false, network.WithHint(
			fmt.Errorf("bridge %s has subnet %s with %d clones in it, not %s: %w", b.Name, b.Subnet, ports, want, errdefs.ErrFailedPrecondition),
			"remove the clones before the subnet is changed")
	}
	return false, netlink.AddrDel(link, &addrs[0])
}

// up gives the bridge its addresses, the first of the subnets.
func (b *Bridge) up(link netlink.Link) error {
	ip := b.Gateway()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(b.Subnet.Bits(), 32)}}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give bridge %s address %s: %w", b.Name, ip, err)
	}
	if err := b.up6(link); err != nil {
		return fmt.Errorf("set up bridge %s: %w", b.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set bridge %s up: %w", b.Name, err)
	}
	return nil
}

// Ensure makes the bridge anew if somebody deleted it. What was attached stays
// cut off. It is not to be called concurrently.
func (b *Bridge) Ensure() error {
	if _, err := linkByName(b.Name); err == nil {
		return nil
	}
	link, _, err := claimName(b.Name, b.owner)
	if err != nil {
		return err
	}
	return b.up(link)
}

// Delete deletes the bridge. While links are attached it fails with
// FailedPrecondition. It is idempotent.
func (b *Bridge) Delete() error {
	link, err := linkByName(b.Name)
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
	if ports > 0 || link.Attrs().Alias != b.owner {
		return fmt.Errorf("bridge %s is in use, it has %d ports: %w", b.Name, ports, errdefs.ErrFailedPrecondition)
	}
	return netlink.LinkDel(link)
}

// NamePort writes the id of a clone on the host's end of its link.
func NamePort(name, id string) error {
	link, err := linkByName(name)
	if err == nil {
		err = netlink.LinkSetAlias(link, portAlias(id))
	}
	if err != nil {
		return fmt.Errorf("name link %s: %w", name, err)
	}
	return nil
}

func portAlias(id string) string { return "ctrsnap " + id }
