package bridge

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// ifName is the clone's interface.
const ifName = "eth0"

// maxTries bounds the addresses tried while links of namespaces that ended a
// moment ago still have the names of theirs.
const maxTries = 256

// port is the link of a namespace. The host's end is named by the address: the
// kernel refuses a second one, so that no address is used twice whatever we
// remember.
type port struct {
	lan    *lan
	addr   netip.Addr
	index  int // of the host's end
	master int // index of the bridge that it was plugged into
	opts   network.Options
}

// addrs are those of the clone's interface, IPv4 first.
func (p port) addrs() []netip.Addr {
	if six := p.lan.bridge.addr6(p.addr); six.IsValid() {
		return []netip.Addr{p.addr, six}
	}
	return []netip.Addr{p.addr}
}

func portName(a netip.Addr) string { return "veth" + hex.EncodeToString(a.AsSlice()) }

// portAddr is the reverse of portName.
func portAddr(name string) (netip.Addr, bool) {
	b, err := hex.DecodeString(strings.TrimPrefix(name, "veth"))
	if err != nil || len(b) != 4 {
		return netip.Addr{}, false
	}
	a, ok := netip.AddrFromSlice(b)
	return a, ok && portName(a) == name
}

// macOf is the hardware address of a clone's interface.
func macOf(a netip.Addr) net.HardwareAddr {
	return append(net.HardwareAddr{0x0a, 0x58}, a.AsSlice()...)
}

// takeUpPort remembers a port of an earlier process. One of ours without a name
// is of a process that died while making it.
func (n *Network) takeUpPort(l *lan, link netlink.Link) error {
	attrs := link.Attrs()
	addr, ours := portAddr(attrs.Name)
	id, named := strings.CutPrefix(attrs.Alias, portAlias(""))
	ours = ours && l.bridge.Subnet.Contains(addr)
	if ours && !named {
		if err := netlink.LinkDel(link); err != nil && !gone(err) {
			return fmt.Errorf("delete half made link %s: %w", attrs.Name, err)
		}
		return nil
	}
	if !ours {
		n.mu.Lock()
		defer n.mu.Unlock()
		l.closed = true
		return nil
	}
	opts, err := n.leases.read(id)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	l.used[addr] = true
	l.last = slices.MaxFunc([]netip.Addr{l.last, addr}, netip.Addr.Compare)
	n.ports[id] = port{l, addr, attrs.Index, attrs.MasterIndex, opts}
	return nil
}

// attach gives a namespace a link with an address. What it fails with is undone
// by unplug.
func (n *Network) attach(ctx context.Context, id, path string, opts network.Options) (port, error) {
	ns, err := os.Open(path)
	if err != nil {
		return port{}, err
	}
	defer ns.Close()
	for range maxTries {
		l, addr, err := n.reserve(ctx, opts.Addr)
		if err != nil {
			return port{}, fmt.Errorf("attach %s: %w", id, err)
		}
		p, err := n.plug(id, port{lan: l, addr: addr, opts: opts}, ns)
		if err != nil {
			n.release(l, addr)
		}
		if errors.Is(err, unix.EEXIST) {
			if !opts.Addr.IsValid() {
				continue
			}
			err = errTaken(addr)
		}
		if err == nil {
			err = n.setUp(p, id, ns)
		}
		if err != nil {
			return port{}, fmt.Errorf("attach %s to bridge %s: %w", id, l.bridge.Name, err)
		}
		return p, nil
	}
	return port{}, fmt.Errorf("attach %s: links have the names of all addresses tried: %w", id, errdefs.ErrUnavailable)
}

// plug makes the link.
func (n *Network) plug(id string, p port, ns *os.File) (_ port, err error) {
	if err := n.step("link"); err != nil {
		return port{}, err
	}
	name, mac := portName(p.addr), macOf(p.addr)
	p.master = n.master(p.lan)
	err = addVeth(name, p.master, mac, ns)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		if p.master, err = n.refresh(p.lan); err == nil {
			err = addVeth(name, p.master, mac, ns)
		}
	}
	if err != nil {
		return port{}, fmt.Errorf("make link %s: %w", name, err)
	}
	if p.index, err = ifIndex(name); err != nil {
		return port{}, fmt.Errorf("find link %s: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[id] = p
	return p, nil
}

func (n *Network) master(l *lan) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return l.index
}

// setUp isolates the port and tells both sides where the other is.
//
// Nothing is learned or asked for: with entries of our own a clone cannot take
// another's traffic by claiming its address, nothing is flooded to a thousand
// ports, and permanent entries do not count against the kernel's limit of
// 1,024 neighbours for all namespaces together (net.ipv4.neigh.default.gc_thresh3).
func (n *Network) setUp(p port, id string, ns *os.File) error {
	if err := n.step("port"); err != nil {
		return err
	}
	if err := setPort(p.index, portAlias(id)); err != nil {
		return fmt.Errorf("isolate link: %w", err)
	}
	if err := n.step("neighbour"); err != nil {
		return err
	}
	fdb := &netlink.Neigh{LinkIndex: p.index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: macOf(p.addr)}
	if err := netlink.NeighSet(fdb); err != nil {
		return fmt.Errorf("give bridge the hardware address: %w", err)
	}
	for _, a := range p.addrs() {
		if err := netlink.NeighSet(neighbour(p.master, a, macOf(p.addr))); err != nil {
			return fmt.Errorf("give host the hardware address of %s: %w", a, err)
		}
	}
	if err := n.step("firewall"); err != nil {
		return err
	}
	if err := n.allow(id, p); err != nil {
		return err
	}
	if err := n.step("inside"); err != nil {
		return err
	}
	if err := n.setUpInside(p, ns); err != nil {
		return err
	}
	// The port gives carrier to the bridge if it is the first.
	for _, name := range []string{portName(p.addr), p.lan.bridge.Name} {
		if err := awaitCarrier(name); err != nil {
			return fmt.Errorf("wait for link %s: %w", name, err)
		}
	}
	return n.step("added")
}

func neighbour(link int, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: link, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
}

// unplug deletes the link of an id and frees its address. It is idempotent.
func (n *Network) unplug(id string) error {
	n.mu.Lock()
	p, ok := n.ports[id]
	n.mu.Unlock()
	if !ok {
		return nil
	}
	// The neighbour first: the link says that there is more to do.
	for _, a := range p.addrs() {
		if err := netlink.NeighDel(neighbour(p.master, a, nil)); err != nil && !gone(err) {
			return fmt.Errorf("delete neighbour %s: %w", a, err)
		}
	}
	if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: p.index}}); err != nil && !gone(err) {
		return fmt.Errorf("delete link %s: %w", portName(p.addr), err)
	}
	if err := n.forbid(id); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ports, id)
	delete(p.lan.used, p.addr)
	return nil
}

func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) }

// plugged lists the ids that have a link.
func (n *Network) plugged() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	ids := make([]string, 0, len(n.ports))
	for id := range n.ports {
		ids = append(ids, id)
	}
	return ids
}

// Check says in microseconds whether a namespace made earlier can be used: with
// FailedPrecondition that somebody deleted its link or its bridge, or configured
// another subnet.
func (n *Network) Check(_ context.Context, ns network.Namespace) error {
	n.mu.Lock()
	p, ok := n.ports[ns.ID]
	closed := ok && p.lan.closed
	n.mu.Unlock()
	if !ok || closed {
		return fmt.Errorf("namespace %s has no link to a bridge in use: %w", ns.ID, errdefs.ErrFailedPrecondition)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("look at links of namespace %s: %w", ns.ID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	for name, want := range map[string]int{portName(p.addr): p.index, p.lan.bridge.Name: p.master} {
		if i, err := ifIndexBy(fd, name); err != nil || i != want {
			return fmt.Errorf("namespace %s has lost link %s: %w", ns.ID, name, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}
