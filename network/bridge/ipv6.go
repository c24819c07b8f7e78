package bridge

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// maxDraws bounds how often an IPv6 subnet is drawn.
const maxDraws = 16

// Gateway6 is the host's IPv6 address, or zero.
func (b *Bridge) Gateway6() netip.Addr {
	if !b.Subnet6.IsValid() {
		return netip.Addr{}
	}
	return b.addr6(b.Gateway())
}

// addr6 is the IPv6 address that goes with an IPv4 address of the bridge: the
// one is at the end of the other.
func (b *Bridge) addr6(a netip.Addr) netip.Addr {
	if !b.Subnet6.IsValid() {
		return netip.Addr{}
	}
	six, four := b.Subnet6.Addr().As16(), a.As4()
	copy(six[12:], four[:])
	return netip.AddrFrom16(six)
}

// address6 keeps the bridge's IPv6 subnet or chooses one. A host without IPv6
// gets none.
func (b *Bridge) address6(link netlink.Link) error {
	if b.Subnet6 = (netip.Prefix{}); !netns.HasIPv6() {
		return nil
	}
	addrs, err := addrsOf(link, netlink.FAMILY_V6)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		have, ok := prefixOf(a.IPNet)
		if !ok || !have.Addr().IsPrivate() || have.Bits() != 64 {
			continue
		}
		if b.Subnet6 = have.Masked(); have.Addr() == b.Gateway6() {
			return nil
		}
		// Another IPv4 subnet is configured than when it was given.
		return netlink.AddrDel(link, &a)
	}
	b.Subnet6, err = choose6(link.Attrs().Index)
	return err
}

// choose6 draws a unique local subnet, RFC 4193, section 3.2, that overlaps no
// route of any table and no address.
func choose6(own int) (netip.Prefix, error) {
	used, err := ranges(netlink.FAMILY_V6, own)
	if err != nil {
		return netip.Prefix{}, err
	}
	for range maxDraws {
		b := [16]byte{0xfd}
		_, _ = rand.Read(b[1:6]) // the global id; the subnet id is 0
		p := netip.PrefixFrom(netip.AddrFrom16(b), 64)
		if _, taken := overlap(p, used); !taken {
			return p, nil
		}
	}
	return netip.Prefix{}, network.WithHint(
		fmt.Errorf("all %d IPv6 subnets tried overlap routes of this host: %w", maxDraws, errdefs.ErrResourceExhausted),
		"some route takes all of fd00::/8: remove it")
}

// up6 gives the bridge its IPv6 address. Nobody is asked whether it is free,
// and the kernel adds none of its own.
func (b *Bridge) up6(link netlink.Link) error {
	if !b.Subnet6.IsValid() {
		return netns.DisableIPv6(b.Name)
	}
	if err := netns.QuietIPv6(b.Name); err != nil {
		return err
	}
	if err := setSysctl("ipv6", b.Name, "disable_ipv6", "0"); err != nil {
		return err
	}
	ip := b.Gateway6()
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("give address %s: %w", ip, err)
	}
	return nil
}
