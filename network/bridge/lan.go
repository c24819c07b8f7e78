package bridge

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

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

// reserve takes an address of any bridge, and makes another bridge when all are
// full.
func (n *Network) reserve(ctx context.Context) (*lan, netip.Addr, error) {
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
		if err := n.grow(ctx, len(lans)); err != nil {
			return nil, netip.Addr{}, err
		}
	}
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

// grow makes another bridge unless there are more than known meanwhile.
func (n *Network) grow(ctx context.Context, known int) error {
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
	if cfg.Subnet, err = n.slice(lans); err != nil {
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
	l := &lan{
		bridge: b, index: link.Attrs().Index, mac: link.Attrs().HardwareAddr,
		used: map[netip.Addr]bool{}, last: b.Gateway(),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lans = append(n.lans, l)
	return l, nil
}

// slice returns the part of the configured subnet for another bridge, or zero
// without a configuration. At first nothing may overlap the whole of it.
func (n *Network) slice(lans []*lan) (netip.Prefix, error) {
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
	n.mu.Lock()
	defer n.mu.Unlock()
	l.index, l.mac = link.Attrs().Index, link.Attrs().HardwareAddr
	return l.index, nil
}

// takeUp finds the bridges and ports of an earlier process. A bridge that does
// not fit the configuration is deleted if it is empty, else it serves those who
// are in it and nobody else.
func (n *Network) takeUp(ctx context.Context) error {
	links, err := whole(netlink.LinkList)
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
