package cni

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
)

// addLink makes a link with an address, as a host's network would have it.
func addLink(t *testing.T, name, cidr string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
}

func TestRestartKeepsBridgeAndSubnet(t *testing.T) {
	opts := testOptions(t)
	first := mustOpen(t, opts)
	ns := mustAdd(t, first, "ca")
	// A route that appears later does not move the subnet that is in use.
	addLink(t, "vpn0", "10.0.0.1/8")
	second := mustOpen(t, opts)
	if *second.bridge != *first.bridge {
		t.Errorf("bridge %+v after %+v", *second.bridge, *first.bridge)
	}
	if other := mustAdd(t, second, "cb"); other.Addrs[0] == ns.Addrs[0] {
		t.Errorf("both have %s", ns.Addrs[0])
	}
	if err := dial(serve(t, ns)); err != nil {
		t.Error(err)
	}
	mustRemove(t, second, "ca")

	opts.Subnet = subnet("10.97.0.0/24")
	if _, err := Open(t.Context(), opts); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another subnet with clones: %v", err)
	}
}

func TestSubnetIsChangedWhenUnused(t *testing.T) {
	opts := testOptions(t)
	mustOpen(t, opts)
	opts.Subnet = subnet("10.97.1.0/24")
	n := mustOpen(t, opts)
	if ns := mustAdd(t, n, "ca"); !opts.Subnet.Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v", ns.Addrs)
	} else if err := dial(serve(t, ns)); err != nil {
		t.Error(err)
	}
}

func TestConfiguredSubnetOverlaps(t *testing.T) {
	opts := testOptions(t)
	addLink(t, "lan0", "10.96.5.1/16")
	opts.Subnet = subnet("10.96.128.0/24")
	_, err := Open(t.Context(), opts)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "route 10.96.0.0/16 dev lan0") || hint(err) == "" {
		t.Errorf("open: %v", err)
	}
	checkLeaks(t, opts)
}

func TestAutomaticSubnetPassesOverTakenOnes(t *testing.T) {
	opts := testOptions(t)
	addLink(t, "lan1", "10.1.2.3/8")
	var log bytes.Buffer
	opts.Log = slog.New(slog.NewTextHandler(&log, nil))
	n := mustOpen(t, opts)
	if n.bridge.subnet != subnet("172.29.212.0/22") {
		t.Errorf("subnet %s", n.bridge.subnet)
	}
	if !strings.Contains(log.String(), "subnet=10.213.0.0/22") || !strings.Contains(log.String(), "lan1") {
		t.Errorf("log: %s", log.String())
	}
}

func TestTwoDaemons(t *testing.T) {
	one, two := testOptions(t), testOptions(t)
	a, b := mustOpen(t, one), mustOpen(t, two)
	if a.bridge.name == b.bridge.name || a.bridge.subnet.Overlaps(b.bridge.subnet) {
		t.Errorf("bridges %+v and %+v", *a.bridge, *b.bridge)
	}
	two.Bridge = a.bridge.name
	if _, err := Open(t.Context(), two); !errdefs.IsFailedPrecondition(err) || hint(err) == "" {
		t.Errorf("bridge of another daemon: %v", err)
	}
}

func TestDaemonsThatStartTogether(t *testing.T) {
	networks := make([]*Network, 6)
	var g errgroup.Group
	for i := range networks {
		opts := testOptions(t)
		g.Go(func() (err error) {
			networks[i], err = Open(t.Context(), opts)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	seen := map[netip.Prefix]bool{}
	for _, n := range networks {
		if n == nil {
			continue
		}
		if seen[n.bridge.subnet] {
			t.Errorf("two have %s", n.bridge.subnet)
		}
		seen[n.bridge.subnet] = true
		if err := n.Teardown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestForeignLinkIsLeftAlone(t *testing.T) {
	opts := testOptions(t)
	addLink(t, "docker0", "172.17.0.1/16")
	opts.Bridge = "docker0"
	if _, err := Open(t.Context(), opts); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("open: %v", err)
	}
	if _, err := netlink.LinkByName("docker0"); err != nil {
		t.Error(err)
	}
}

func TestHalfMadeBridgeIsTakenUp(t *testing.T) {
	opts := testOptions(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ctrsnap0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	if n := mustOpen(t, opts); n.bridge.name != "ctrsnap0" {
		t.Errorf("bridge %s", n.bridge.name)
	}
}

func TestDeletedBridgeIsMadeAnew(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	link, err := netlink.LinkByName(n.bridge.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if err := dial(serve(t, mustAdd(t, n, "ca"))); err != nil {
		t.Error(err)
	}
}

func TestBadSubnets(t *testing.T) {
	opts := testOptions(t)
	for _, s := range []string{"10.0.0.1/24", "10.0.0.0/30", "0.0.0.0/0", "fd00::/64", "10.0.0.0/7"} {
		opts.Subnet = subnet(s)
		if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", s, err)
		}
	}
	opts.Subnet, opts.StateDir = netip.Prefix{}, "relative"
	if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative state: %v", err)
	}
}

func TestChoose(t *testing.T) {
	var used []taken
	for i, c := range candidates {
		var skipped int
		got, err := choose(netip.Prefix{}, used, func(netip.Prefix, taken) { skipped++ })
		if err != nil || got != c || skipped != i {
			t.Errorf("candidate %d: %s after %d, %v", i, got, skipped, err)
		}
		used = append(used, taken{netip.PrefixFrom(c.Addr().Next(), 32), fmt.Sprint(i)})
	}
	if _, err := choose(netip.Prefix{}, used, func(netip.Prefix, taken) {}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("all taken: %v", err)
	}
}

// TestDefaultRoutesTakeNothing has the two halves that VPNs set in place of a
// default route.
func TestDefaultRoutesTakeNothing(t *testing.T) {
	opts := testOptions(t)
	addLink(t, "tun0", "100.100.0.1/30")
	link, err := netlink.LinkByName("tun0")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1"} {
		dst, err := netlink.ParseIPNet(s)
		if err == nil {
			err = netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: link.Attrs().Index})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := mustOpen(t, opts); n.bridge.subnet != candidates[0] {
		t.Errorf("subnet %s", n.bridge.subnet)
	}
}
