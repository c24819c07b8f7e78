package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

// addAll adds and removes many, some at once.
func addAll(t *testing.T, n *Network, count int) []network.Namespace {
	t.Helper()
	all := make([]network.Namespace, count)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range count {
		g.Go(func() (err error) {
			all[i], err = n.Add(t.Context(), fmt.Sprintf("c%d", i), network.Options{Lease: fmt.Sprint(i % 100), Egress: i%2 == 0})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

func removeAll(t *testing.T, n *Network, all []network.Namespace) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(32) // each waits for the kernel
	for _, ns := range all {
		g.Go(func() error { return n.Remove(t.Context(), ns.ID) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestMoreThanOneBridgeHolds has as many clones as issue 5 wants on one host.
func TestMoreThanOneBridgeHolds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	n := mustOpen(t, testOptions(t))
	all := addAll(t, n, 1200)
	if len(n.lans) != 2 {
		t.Errorf("%d bridges", len(n.lans))
	}
	seen := map[netip.Addr]bool{}
	for _, ns := range all {
		if seen[ns.Addrs[0]] {
			t.Errorf("two have %s", ns.Addrs[0])
		}
		seen[ns.Addrs[0]] = true
		testsuite.MustReach(t, "the host", ns.Addrs, testsuite.EchoIn(t, ns))
	}
	testsuite.MustAgree(t)
	// Of a lease that has clones on both bridges.
	first, last := all[0], all[1100]
	port := testsuite.EchoIn(t, last)
	testsuite.Inside(t, first, func() error { testsuite.MustReach(t, "the lease", last.Addrs, port); return nil })
	testsuite.Inside(t, all[1], func() error { testsuite.MustNotReach(t, "another lease", last.Addrs, port); return nil })
	removeAll(t, n, all)
	testsuite.MustAgree(t)
	for set, left := range testsuite.Elements(t, n.fw.Table(), "source4", "source6", "peer4", "peer6", "egress4", "egress6") {
		if len(left) > 0 {
			t.Errorf("set %s has %d elements left", set, len(left))
		}
	}
}

// TestClonesOfTwoBridges fills a small bridge and looks from one to the other,
// on a host that routes.
func TestClonesOfTwoBridges(t *testing.T) {
	opts := testOptions(t)
	opts.Subnet = netip.MustParsePrefix("10.64.0.0/21")
	n := mustOpen(t, opts)
	a := testsuite.MustAdd(t, n, "ca")
	n.lans[0].closed = true
	b := testsuite.MustAdd(t, n, "cb")
	if n.lans[1].bridge.Subnet != netip.MustParsePrefix("10.64.4.0/22") {
		t.Errorf("second subnet %s", n.lans[1].bridge.Subnet)
	}
	addr := testsuite.Serve(t, b)
	if err := testsuite.Dial(addr); err != nil {
		t.Error(err)
	}
	testsuite.Inside(t, a, func() error {
		if testsuite.Dial(addr) == nil {
			t.Error("a clone reaches one of another bridge")
		}
		return nil
	})
	n.lans[1].closed = true
	if _, err := n.Add(t.Context(), "cc", network.Options{}); !errdefs.IsResourceExhausted(err) || testsuite.Hint(err) == "" {
		t.Errorf("add to full subnet: %v", err)
	}
}

// TestForeignPort keeps away from a bridge whose addresses others give out.
func TestForeignPort(t *testing.T) {
	opts := testOptions(t)
	first := mustOpen(t, opts)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = "foreign", first.lans[0].index
	foreign := &netlink.Veth{LinkAttrs: attrs, PeerName: "other"}
	if err := netlink.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	second, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ns := testsuite.MustAdd(t, second, "ca")
	if first.lans[0].bridge.Subnet.Contains(ns.Addrs[0]) {
		t.Errorf("address %s of a bridge with a port that is not ours", ns.Addrs[0])
	}
	testsuite.MustRemove(t, second, "ca")
	if err := netlink.LinkDel(foreign); err != nil {
		t.Error(err)
	}
	if err := second.Teardown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNeighboursCannotBeClaimed has a clone answer for another's address.
func TestNeighboursCannotBeClaimed(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	a, b := testsuite.MustAdd(t, n, "ca"), testsuite.MustAdd(t, n, "cb")
	addr := testsuite.Serve(t, b)
	testsuite.Inside(t, a, func() error {
		link, err := netlink.LinkByName(ifName)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(link, macOf(b.Addrs[0])); err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: host(b.Addrs[0])}); err != nil {
			return err
		}
		_ = testsuite.Dial(n.lans[0].bridge.Gateway().String() + ":1") // frames with the stolen addresses
		return nil
	})
	if err := testsuite.Dial(addr); err != nil {
		t.Errorf("the rightful owner: %v", err)
	}
}

func TestCheck(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	a, b := testsuite.MustAdd(t, n, "ca"), testsuite.MustAdd(t, n, "cb")
	if err := n.Check(t.Context(), a); err != nil {
		t.Error(err)
	}
	if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: n.ports["ca"].index}}); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(t.Context(), a); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("link is gone: %v", err)
	}
	if err := netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: n.lans[0].index}}); err != nil {
		t.Fatal(err)
	}
	if err := n.Check(t.Context(), b); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("bridge is gone: %v", err)
	}
}

func TestAddressesAreNotReusedAtOnce(t *testing.T) {
	opts := testOptions(t)
	opts.Subnet = netip.MustParsePrefix("10.64.8.0/29")
	n := mustOpen(t, opts)
	var got []string
	for range 7 {
		ns := testsuite.MustAdd(t, n, "ca")
		got = append(got, ns.Addrs[0].String()[len("10.64.8."):])
		testsuite.MustRemove(t, n, "ca")
	}
	if want := []string{"2", "3", "4", "5", "6", "2", "3"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v", got)
	}
}

func TestPortNames(t *testing.T) {
	a := netip.MustParseAddr("10.213.0.5")
	if got, ok := portAddr(portName(a)); !ok || got != a || portName(a) != "veth0ad50005" {
		t.Errorf("%s %v", got, ok)
	}
	for _, name := range []string{"", "veth", "0ad50005", "veth0AD50005", "veth0ad5000", "veth0ad5000500", "eth0"} {
		if a, ok := portAddr(name); ok {
			t.Errorf("%q is of %s", name, a)
		}
	}
}
