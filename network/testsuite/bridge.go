package testsuite

import (
	"bytes"
	"crypto/rand"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/network"
)

// AddLink makes a link with an address, as a host's network would have it.
func AddLink(t testing.TB, name, cidr string) {
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

func testRestart(t *testing.T, open Open) {
	cfg := Setup(t)
	first, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ns := MustAdd(t, first, "ca")
	before := subnets(t, cfg)
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	// A route that appears later does not move the subnet that is in use.
	AddLink(t, "vpn0", "10.0.0.1/8")
	second, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if after := subnets(t, cfg); !maps.Equal(before, after) {
		t.Errorf("bridges %v after %v", after, before)
	}
	if ids, err := second.Namespaces(t.Context()); err != nil || len(ids) != 1 || ids[0] != "ca" {
		t.Errorf("namespaces %v, %v", ids, err)
	}
	if _, err := second.Add(t.Context(), "ca", network.Options{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("add of one that exists: %v", err)
	}
	if other := MustAdd(t, second, "cb"); other.Addrs[0] == ns.Addrs[0] {
		t.Errorf("both have %s", ns.Addrs[0])
	}
	if err := Dial(Serve(t, ns)); err != nil {
		t.Error(err)
	}
	MustRemove(t, second, "ca")
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	testSubnetInUse(t, open, cfg)
	RemoveAll(t, second)
	Teardown(t, second)
}

// testSubnetInUse configures another subnet while there is a clone: it is
// refused, or new clones are in the new one and the old ones go on.
func testSubnetInUse(t *testing.T, open Open, cfg Config) {
	t.Helper()
	cfg.Subnet = netip.MustParsePrefix("10.97.0.0/24")
	n, closeIt, err := open(t.Context(), cfg)
	if errdefs.IsFailedPrecondition(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 8 { // more than there may be spare
		id := "c" + strings.ToLower(rand.Text())[:11]
		ns := MustAdd(t, n, id)
		if !cfg.Subnet.Contains(ns.Addrs[0]) {
			t.Errorf("address %s", ns.Addrs[0])
		}
		if err := Dial(Serve(t, ns)); err != nil {
			t.Error(err)
		}
	}
	RemoveAll(t, n)
	if err := closeIt(); err != nil {
		t.Error(err)
	}
}

func testSubnetChanged(t *testing.T, open Open) {
	cfg := Setup(t)
	first, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	MustAdd(t, first, "ca")
	MustRemove(t, first, "ca")
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	cfg.Subnet = netip.MustParsePrefix("10.97.1.0/24")
	n := MustOpen(t, open, cfg)
	if ns := MustAdd(t, n, "ca"); !cfg.Subnet.Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v", ns.Addrs)
	} else if err := Dial(Serve(t, ns)); err != nil {
		t.Error(err)
	}
	if all := slices.Collect(maps.Values(subnets(t, cfg))); !slices.Contains(all, cfg.Subnet) {
		t.Errorf("subnets %v", all)
	}
}

func testOverlap(t *testing.T, open Open) {
	cfg := Setup(t)
	AddLink(t, "lan0", "10.96.5.1/24")
	for _, s := range []string{"10.96.5.128/25", "10.96.0.0/16"} {
		cfg.Subnet = netip.MustParsePrefix(s)
		_, _, err := open(t.Context(), cfg)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "route 10.96.5.0/24 dev lan0") || Hint(err) == "" {
			t.Errorf("open with %s: %v", s, err)
		}
	}
}

func testTakenSubnets(t *testing.T, open Open) {
	cfg := Setup(t)
	AddLink(t, "lan1", "10.1.2.3/8")
	var log bytes.Buffer
	cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	MustOpen(t, open, cfg)
	if _, subnet := lan(t, cfg); subnet != netip.MustParsePrefix("172.29.212.0/22") {
		t.Errorf("subnet %s", subnet)
	}
	if !strings.Contains(log.String(), "subnet=10.213.0.0/22") || !strings.Contains(log.String(), "lan1") {
		t.Errorf("log: %s", log.String())
	}
}

// testDefaultRoutes has the two halves that VPNs set in place of a default
// route.
func testDefaultRoutes(t *testing.T, open Open) {
	cfg := Setup(t)
	AddLink(t, "tun0", "100.100.0.1/30")
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
	MustOpen(t, open, cfg)
	if _, subnet := lan(t, cfg); subnet != netip.MustParsePrefix("10.213.0.0/22") {
		t.Errorf("subnet %s", subnet)
	}
}

func testTwoDaemons(t *testing.T, open Open) {
	one := Setup(t)
	two := Config{StateDir: t.TempDir()}
	MustOpen(t, open, one)
	MustOpen(t, open, two)
	nameA, a := lan(t, one)
	nameB, b := lan(t, two)
	if nameA == nameB || a.Overlaps(b) {
		t.Errorf("bridges %s %s and %s %s", nameA, a, nameB, b)
	}
	three := Config{StateDir: t.TempDir(), Bridge: nameA}
	if _, _, err := open(t.Context(), three); !errdefs.IsFailedPrecondition(err) || Hint(err) == "" {
		t.Errorf("bridge of another daemon: %v", err)
	}
}

func testStartTogether(t *testing.T, open Open) {
	Setup(t)
	const daemons = 6
	var (
		g        errgroup.Group
		cfgs     [daemons]Config
		networks [daemons]Network
		closers  [daemons]func() error
	)
	for i := range daemons {
		cfgs[i].StateDir = t.TempDir()
		g.Go(func() (err error) {
			networks[i], closers[i], err = open(t.Context(), cfgs[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Prefix]bool{}
	for i, n := range networks {
		_, subnet := lan(t, cfgs[i])
		if seen[subnet] {
			t.Errorf("two have %s", subnet)
		}
		seen[subnet] = true
		if err := closers[i](); err != nil {
			t.Error(err)
		}
		Teardown(t, n)
	}
}

func testForeignLink(t *testing.T, open Open) {
	cfg := Setup(t)
	AddLink(t, "docker0", "172.17.0.1/16")
	cfg.Bridge = "docker0"
	if _, _, err := open(t.Context(), cfg); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("open: %v", err)
	}
	if _, err := netlink.LinkByName("docker0"); err != nil {
		t.Error(err)
	}
}

func testHalfMadeBridge(t *testing.T, open Open) {
	cfg := Setup(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ctrsnap0"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	MustOpen(t, open, cfg)
	if name, _ := lan(t, cfg); name != "ctrsnap0" {
		t.Errorf("bridge %s", name)
	}
}

func testDeletedBridge(t *testing.T, open Open) {
	cfg := Setup(t)
	n := MustOpen(t, open, cfg)
	MustAdd(t, n, "ca")
	name, _ := lan(t, cfg)
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(link); err != nil {
		t.Fatal(err)
	}
	if err := Dial(Serve(t, MustAdd(t, n, "cb"))); err != nil {
		t.Error(err)
	}
	MustRemove(t, n, "ca")
}

func testBadOptions(t *testing.T, open Open) {
	cfg := Setup(t)
	for _, s := range []string{"10.0.0.1/24", "10.0.0.0/30", "0.0.0.0/0", "fd00::/64", "10.0.0.0/7"} {
		cfg.Subnet = netip.MustParsePrefix(s)
		if _, _, err := open(t.Context(), cfg); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", s, err)
		}
	}
	cfg.Subnet = netip.Prefix{}
	if _, _, err := open(t.Context(), Config{StateDir: "relative"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("relative state: %v", err)
	}
}
