package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// lanBits is the size of a bridge's subnet: a /22 has 1,021 addresses for
// clones, and a Linux bridge 1,023 ports (BR_MAX_PORTS in the kernel).
const lanBits = 22

// lan is a bridge with the addresses of its subnet. Fields below bridge are
// guarded by Network.mu.
type lan struct {
	bridge *Bridge
	index  int              // of the bridge's link
	mac    net.HardwareAddr // of the bridge
	used   map[netip.Addr]bool
	last   netip.Addr // given out
	closed bool       // gives out no addresses, see takeUpBridge and takeUpPort
}

// take gives out the address after the last one: the longer an address is not
// used, the less can a client of its old clone reach the new one.
func (l *lan) take() (netip.Addr, bool) {
	subnet := l.bridge.Subnet
	if l.closed || len(l.used) >= 1<<(32-subnet.Bits())-3 {
		return netip.Addr{}, false
	}
	for a := l.last.Next(); ; a = a.Next() {
		if !subnet.Contains(a.Next()) { // the broadcast address
			a = l.bridge.Gateway().Next()
		}
		if !l.used[a] {
			l.used[a], l.last = true, a
			return a, true
		}
	}
}

// takeThis gives out a wanted address.
func (l *lan) takeThis(a netip.Addr) error {
	subnet := l.bridge.Subnet
	switch {
	case a == subnet.Addr() || a == l.bridge.Gateway() || !subnet.Contains(a.Next()):
		return network.WithHint(fmt.Errorf("address %s of subnet %s is not for clones: %w", a, subnet, errdefs.ErrInvalidArgument),
			"the first two and the last address of a subnet are the network's own")
	case l.closed:
		return fmt.Errorf("subnet %s of address %s is not in use any more: %w", subnet, a, errdefs.ErrInvalidArgument)
	case l.used[a]:
		return errTaken(a)
	}
	l.used[a] = true
	return nil
}

func errTaken(a netip.Addr) error {
	return network.WithHint(fmt.Errorf("address %s is taken by another clone: %w", a, errdefs.ErrAlreadyExists),
		"ask for another one, or for none to be given any")
}

// reserve takes the wanted address, or with zero one of any bridge, and makes
// another bridge when all are full.
func (n *Network) reserve(ctx context.Context, want netip.Addr) (*lan, netip.Addr, error) {
	if want.IsValid() {
		return n.reserveThis(ctx, want)
	}
	for {
		lans := n.all()
		n.mu.Lock()
		for _, l := range lans {
			if a, ok := l.take(); ok {
				n.mu.Unlock()
				return l, a, nil
			}
		}
		n.mu.Unlock()
		if err := n.grow(ctx, len(lans), netip.Addr{}); err != nil {
			return nil, netip.Addr{}, err
		}
	}
}

// reserveThis takes a wanted address. A configured subnet may have it in a part
// that has no bridge yet.
func (n *Network) reserveThis(ctx context.Context, want netip.Addr) (*lan, netip.Addr, error) {
	for range 2 {
		lans := n.all()
		for _, l := range lans {
			if l.bridge.Subnet.Contains(want) {
				n.mu.Lock()
				defer n.mu.Unlock()
				return l, want, l.takeThis(want)
			}
		}
		if !n.opts.Subnet.Contains(want) {
			break
		}
		if err := n.grow(ctx, len(lans), want); err != nil {
			return nil, want, err
		}
	}
	return nil, want, network.WithHint(
		fmt.Errorf("address %s is of no subnet of this network (%s): %w", want, n, errdefs.ErrInvalidArgument),
		"ask for one of these subnets; network.subnet in the configuration chooses them")
}

func (n *Network) release(l *lan, a netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(l.used, a)
}

func (n *Network) all() []*lan {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.lans)
}

// grow makes another bridge unless there are more than known meanwhile: that
// of a wanted address, if it is not zero.
func (n *Network) grow(ctx context.Context, known int, want netip.Addr) error {
	n.growing.Lock()
	defer n.growing.Unlock()
	lans := n.all()
	if len(lans) > known {
		return nil
	}
	cfg := n.config()
	for _, l := range lans {
		cfg.skip = append(cfg.skip, l.bridge.Name)
	}
	var err error
	if cfg.Subnet, err = n.slice(lans, want); err != nil {
		return err
	}
	_, err = n.claim(ctx, cfg)
	return err
}

func (n *Network) config() Config {
	return Config{StateDir: n.opts.StateDir, Name: n.opts.Bridge, Log: n.opts.Log}
}

// claim opens a bridge for use.
func (n *Network) claim(ctx context.Context, cfg Config) (*lan, error) {
	b, err := Claim(ctx, cfg)
	if err != nil {
		return nil, err
	}
	link, err := linkByName(b.Name)
	if err != nil {
		return nil, fmt.Errorf("find bridge %s: %w", b.Name, err)
	}
	if err := setForwarding([]string{b.Name}, "1"); err != nil {
		return nil, err
	}
	l := &lan{
		bridge: b, index: link.Attrs().Index, mac: link.Attrs().HardwareAddr,
		used: map[netip.Addr]bool{}, last: b.Gateway(),
	}
	if err := n.extendFirewall(l); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lans = append(n.lans, l)
	return l, nil
}

// slice returns the part of the configured subnet for another bridge, that of a
// wanted address or the first, or zero without a configuration. At first nothing may overlap the whole of it.
func (n *Network) slice(lans []*lan, want netip.Addr) (netip.Prefix, error) {
	whole := n.opts.Subnet
	if !whole.IsValid() {
		return whole, nil
	}
	if !slices.ContainsFunc(lans, func(l *lan) bool { return whole.Overlaps(l.bridge.Subnet) }) {
		used, err := usedRanges(0)
		if err == nil {
			_, err = choose(whole, used, nil)
		}
		if err != nil {
			return whole, err
		}
	}
	for s := netip.PrefixFrom(whole.Addr(), max(whole.Bits(), lanBits)); whole.Contains(s.Addr()); s = after(s) {
		if want.IsValid() && !s.Contains(want) {
			continue
		}
		if !slices.ContainsFunc(lans, func(l *lan) bool { return l.bridge.Subnet == s }) {
			return s, nil
		}
	}
	return whole, network.WithHint(
		fmt.Errorf("no address is left in subnet %s: %w", whole, errdefs.ErrResourceExhausted),
		"remove clones, or configure a larger subnet")
}

// after returns the next prefix of the same size.
func after(p netip.Prefix) netip.Prefix {
	b := p.Addr().As4()
	ip := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	ip += 1 << (32 - p.Bits())
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(ip >> 24), byte(ip >> 16), byte(ip >> 8), byte(ip)}), p.Bits())
}

// fits says whether a bridge of an earlier process can be used as configured.
func (n *Network) fits(have netip.Prefix) bool {
	want := n.opts.Subnet
	return have.IsValid() && (!want.IsValid() ||
		want.Contains(have.Addr()) && have.Bits() == max(want.Bits(), lanBits))
}

// refresh makes the bridge anew if somebody deleted it, and returns the index
// of its link.
func (n *Network) refresh(l *lan) (index int, _ error) {
	n.growing.Lock()
	defer n.growing.Unlock()
	if err := l.bridge.Ensure(); err != nil {
		return 0, err
	}
	link, err := linkByName(l.bridge.Name)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(setForwarding([]string{l.bridge.Name}, "1"), n.extendFirewall(l)); err != nil {
		return 0, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.index, l.mac = link.Attrs().Index, link.Attrs().HardwareAddr
	return l.index, nil
}
