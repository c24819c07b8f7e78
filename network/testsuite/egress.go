package testsuite

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// Outside makes a namespace beyond the host, at the other end of a link of the
// host's that is called "up0", with a default route by it.
func Outside(t testing.TB) (outside network.Namespace, host []netip.Addr) {
	t.Helper()
	outside = wired(t, "up0", []string{"192.0.2.1/24", "2001:db8::1/64"}, []string{"192.0.2.2/24", "2001:db8::2/64"})
	link, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	for _, gw := range outside.Addrs {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gw.AsSlice()}); err != nil {
			t.Fatal(err)
		}
	}
	return outside, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
}

// wired makes a namespace with a link to the host.
func wired(t testing.TB, name string, here, there []string) network.Namespace {
	t.Helper()
	dir := t.TempDir()
	path, err := netns.Make(dir, "outside")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(f.Fd())}
	err = errors.Join(netlink.LinkAdd(link), f.Close())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(netlink.LinkDel(link), netns.Delete(path)); err != nil {
			t.Error(err)
		}
	})
	ns := network.Namespace{ID: name, Path: path}
	for _, cidr := range there {
		ns.Addrs = append(ns.Addrs, netip.MustParsePrefix(cidr).Addr())
	}
	Inside(t, ns, func() error { return addressed("eth0", there) })
	if err := addressed(name, here); err != nil {
		t.Fatal(err)
	}
	return ns
}

// addressed gives a link addresses and sets it up.
func addressed(name string, cidrs []string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, cidr := range cidrs {
		addr, err := netlink.ParseAddr(cidr)
		if err == nil {
			addr.Flags = unix.IFA_F_NODAD
			err = netlink.AddrAdd(link, addr)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// testEgress is a host that forwards nothing else.
func testEgress(t *testing.T, open Open) {
	cfg := Setup(t)
	outside, host := Outside(t)
	second := wired(t, "up1", []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	n := MustOpen(t, open, cfg)
	a := MustAddTo(t, n, "ca", network.Options{Lease: "one", Egress: true})
	b := MustAddTo(t, n, "cb", network.Options{Lease: "one"})
	port, portA := EchoIn(t, outside), EchoIn(t, a)
	families := reachable(t)
	for _, round := range []bool{true, false, true} {
		if err := n.Assign(t.Context(), "ca", network.Options{Lease: "one", Egress: round}); err != nil {
			t.Fatal(err)
		}
		Inside(t, a, func() error {
			if round {
				MustReach(t, "a clone with egress", outside.Addrs[:families], port)
			} else {
				MustNotReach(t, "a clone without egress", outside.Addrs, port)
			}
			return nil
		})
	}
	Inside(t, b, func() error { MustNotReach(t, "its lease", outside.Addrs, port); return nil })
	seenAs(t, a, outside, host[0])
	// The other way is as closed as it was, also for one that knows the way.
	Inside(t, outside, func() error {
		route(t, a.Addrs[0], host[0])
		route(t, second.Addrs[0], host[0])
		MustNotReach(t, "the outside", a.Addrs[:1], portA)
		return nil
	})
	portSecond := EchoIn(t, second)
	Inside(t, second, func() error { route(t, outside.Addrs[0], netip.MustParseAddr("198.51.100.1")); return nil })
	Inside(t, outside, func() error {
		MustNotReach(t, "the outside, by way of the host,", second.Addrs, portSecond)
		return nil
	})
	if got := sysctl(t, "net/ipv4/ip_forward"); got != "0" {
		t.Errorf("the host became a router: ip_forward is %s", got)
	}
	MustRemove(t, n, "ca")
	MustRemove(t, n, "cb")
	t.Cleanup(func() { // after the network is torn down
		if got := sysctl(t, "net/ipv4/conf/up0/forwarding"); got != "1" {
			t.Errorf("forwarding of up0 is %s while the network is there", got)
		}
	})
}

// reachable is how many families a kernel forwards for some links only: it is
// IPv4, and from 6.17 on also IPv6.
func reachable(t testing.TB) int {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding"); err != nil {
		t.Log("this kernel cannot forward IPv6 for some links only: not tried")
		return 1
	}
	return 2
}

// seenAs fails unless the outside sees a clone with the host's address.
func seenAs(t testing.TB, clone, outside network.Namespace, want netip.Addr) {
	t.Helper()
	var p net.PacketConn
	Inside(t, outside, func() error { p = listen(t, 4053); return nil })
	Inside(t, clone, func() error { tell(t, netip.AddrPortFrom(outside.Addrs[0], 4053)); return nil })
	_, from, err := p.ReadFrom(make([]byte, 8))
	if err != nil || from.(*net.UDPAddr).AddrPort().Addr().Unmap() != want {
		t.Errorf("seen as %v, %v; want %s", from, err, want)
	}
}

func route(t testing.TB, to, by netip.Addr) {
	t.Helper()
	dst := &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())}
	if err := netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: by.AsSlice()}); err != nil {
		t.Error(err)
	}
}

// testEgressOfRouter is a host that forwards, as one with docker does.
func testEgressOfRouter(t *testing.T, open Open) {
	setSysctl(t, "net/ipv4/ip_forward", "1")
	cfg := Setup(t)
	outside, host := Outside(t)
	second := wired(t, "docker7", []string{"198.51.100.1/24"}, []string{"198.51.100.2/24"})
	n := MustOpen(t, open, cfg)
	a := MustAddTo(t, n, "ca", network.Options{Egress: true})
	port, portA, portSecond := EchoIn(t, outside), EchoIn(t, a), EchoIn(t, second)
	Inside(t, a, func() error { MustReach(t, "a clone", outside.Addrs[:1], port); return nil })
	if len(a.Addrs) > 1 {
		Inside(t, a, func() error { refused6(t, netip.AddrPortFrom(outside.Addrs[1], uint16(port))); return nil })
	}
	Inside(t, second, func() error { route(t, outside.Addrs[0], netip.MustParseAddr("198.51.100.1")); return nil })
	Inside(t, outside, func() error {
		route(t, second.Addrs[0], host[0])
		MustReach(t, "the outside, as before,", second.Addrs, portSecond)
		route(t, a.Addrs[0], host[0])
		return nil
	})
	_ = portA
	if _, err := os.Stat(filepath.Join(cfg.StateDir, "uplinks")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("links were changed: %v", err)
	}
}

// refused6 fails unless the host, which routes no IPv6, says so.
func refused6(t testing.TB, addr netip.AddrPort) {
	t.Helper()
	if got := sysctl(t, "net/ipv6/conf/all/forwarding"); got != "0" {
		t.Errorf("the host routes IPv6: %s", got)
	}
	for _, proto := range protocols {
		if err := Ask(proto, addr.String(), patient); !errors.Is(err, unix.EACCES) {
			t.Errorf("%s beyond a host that does not route it: %v", proto, err)
		}
	}
}

// testContainers has a container of the host's ask a clone, by its own bridge.
func testContainers(t *testing.T, open Open) {
	setSysctl(t, "net/ipv4/ip_forward", "1")
	n := MustOpen(t, open, Setup(t))
	job := wired(t, "job0", []string{"172.19.0.1/16"}, []string{"172.19.0.2/16"})
	ns := MustAdd(t, n, "ca")
	port, portJob := EchoIn(t, ns), EchoIn(t, job)
	Inside(t, job, func() error {
		route(t, ns.Addrs[0], netip.MustParseAddr("172.19.0.1"))
		MustReach(t, "a container", ns.Addrs[:1], port)
		return nil
	})
	Inside(t, ns, func() error { MustNotReach(t, "a clone", job.Addrs, portJob); return nil })
}
