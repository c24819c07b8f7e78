package attach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

// master finds the host's interface and says why it cannot be used.
func master(r Request) (netlink.Link, error) {
	if r.Type == network.PTP {
		return nil, nil
	}
	link, err := netlink.LinkByName(r.Master)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, network.WithHint(
			fmt.Errorf("find interface %s of the host: %w", r.Master, errdefs.ErrNotFound), "'ip link' lists the interfaces")
	}
	if err != nil {
		return nil, fmt.Errorf("find interface %s of the host: %w", r.Master, err)
	}
	a := link.Attrs()
	switch {
	case strings.HasPrefix(a.Alias, "ctrsnap "):
		return nil, fmt.Errorf("interface %s is one of ctrsnap's own: what keeps clones apart would not hold: %w", r.Master, errdefs.ErrPermissionDenied)
	case a.Flags&net.FlagLoopback != 0:
		return nil, invalid("interface %s is the loopback", r.Master)
	case r.Type == network.Bridge && link.Type() != "bridge":
		return nil, network.WithHint(invalid("interface %s is no bridge, but of type %s", r.Master, link.Type()), "use type macvlan")
	case a.Flags&net.FlagUp == 0:
		return nil, network.WithHint(
			fmt.Errorf("interface %s is down: %w", r.Master, errdefs.ErrFailedPrecondition), "ip link set "+r.Master+" up")
	case r.Type == network.Macvlan && a.MasterIndex != 0:
		return nil, network.WithHint(
			fmt.Errorf("interface %s is a port of another one: %w", r.Master, errdefs.ErrFailedPrecondition), "use type bridge with that one as master")
	}
	return link, filters(r, link)
}

// filters says whether a bridge tells VLANs apart. To make it do so is its
// owner's affair: it changes what all its ports see.
func filters(r Request, link netlink.Link) error {
	br, ok := link.(*netlink.Bridge)
	if r.VLAN == 0 || !ok || r.Type != network.Bridge || (br.VlanFiltering != nil && *br.VlanFiltering) {
		return nil
	}
	return network.WithHint(
		fmt.Errorf("bridge %s does not filter VLANs: %w", r.Master, errdefs.ErrFailedPrecondition),
		"ip link set "+r.Master+" type bridge vlan_filtering 1 (CONFIG_BRIDGE_VLAN_FILTERING in the kernel)")
}

// MayHave says that the namespace at path has an interface, or that nobody can tell: a process that dies while it
// detaches one leaves a record of what is not there.
func (a *Attacher) MayHave(path, ifName string) bool {
	names, err := look(path)
	return err != nil || names[ifName]
}

// look lists the interfaces of a namespace.
func look(path string) (names map[string]bool, _ error) {
	names = map[string]bool{"lo": true}
	all, err := netns.Interfaces(path)
	for _, i := range all {
		names[i.Name] = true
	}
	return names, err
}

// name chooses the interface's name.
func newName(r Request, have map[string]bool) (string, error) {
	if r.IfName != "" {
		if have[r.IfName] {
			return "", fmt.Errorf("interface %s exists in the clone: %w", r.IfName, errdefs.ErrAlreadyExists)
		}
		return r.IfName, nil
	}
	for i := 1; i <= network.MaxAttached+1; i++ {
		if name := fmt.Sprintf("eth%d", i); !have[name] {
			return name, nil
		}
	}
	return "", fmt.Errorf("a clone has at most %d further interfaces: %w", network.MaxAttached, errdefs.ErrResourceExhausted)
}

// taken says who has an address: this host, or somebody on the master's link
// who answers for it.
func taken(r Request, link netlink.Link, a netip.Addr) error {
	addrs, err := addrsOf(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, have := range addrs {
		if have.IP.Equal(a.AsSlice()) {
			return fmt.Errorf("address %s is this host's: %w", a, errdefs.ErrAlreadyExists)
		}
	}
	if link == nil || r.VLAN != 0 || !a.Is4() || link.Attrs().Flags&unix.IFF_NOARP != 0 {
		return nil // nobody to be asked, or not from here
	}
	mac, err := probe(link, a)
	if err != nil {
		return fmt.Errorf("ask on %s for address %s: %w", r.Master, a, err)
	}
	if mac != nil {
		return fmt.Errorf("address %s is taken on %s, by %s: %w", a, r.Master, mac, errdefs.ErrAlreadyExists)
	}
	return nil
}

// addrsOf lists the addresses of a link, or with nil of all.
func addrsOf(link netlink.Link, family int) ([]netlink.Addr, error) {
	return netns.List(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}

// choose finds a free address in the range of the master's own.
func choose(r Request, link netlink.Link, reserved func(netip.Addr) bool) (netip.Prefix, error) {
	addrs, err := addrsOf(link, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list addresses of %s: %w", r.Master, err)
	}
	if len(addrs) == 0 {
		return netip.Prefix{}, network.WithHint(
			fmt.Errorf("interface %s has no IPv4 address whose range could be used: %w", r.Master, errdefs.ErrFailedPrecondition), "give an address, as in 192.0.2.7/24")
	}
	own, err := netip.ParsePrefix(addrs[0].IPNet.String())
	if err != nil {
		return netip.Prefix{}, err
	}
	tries := 0
	for a := own.Masked().Addr().Next(); own.Contains(a) && a != network.Broadcast(own) && tries < maxTries; a = a.Next() {
		if a == own.Addr() || a.String() == r.Gateway || reserved(a) {
			continue
		}
		tries++
		err := taken(r, link, a)
		if err == nil {
			return netip.PrefixFrom(a, own.Bits()), nil
		}
		if !errdefs.IsAlreadyExists(err) {
			return netip.Prefix{}, err
		}
	}
	return netip.Prefix{}, network.WithHint(
		fmt.Errorf("no free address found in %s of %s: %w", own.Masked(), r.Master, errdefs.ErrResourceExhausted), "give an address")
}
