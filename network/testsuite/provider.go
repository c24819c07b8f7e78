package testsuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

func testReach(t *testing.T, open Open) {
	forward := sysctl(t, "net/ipv4/ip_forward")
	n := MustOpen(t, open, Setup(t))
	a, b := MustAdd(t, n, "ca"), MustAdd(t, n, "cb")
	addrA, addrB := Serve(t, a), Serve(t, b)
	for _, addr := range []string{addrA, addrB} {
		if err := Dial(addr); err != nil {
			t.Errorf("host to clone: %v", err)
		}
	}
	Inside(t, a, func() error {
		_, port, _ := net.SplitHostPort(addrA)
		if err := Dial("127.0.0.1:" + port); err != nil {
			t.Errorf("loopback: %v", err)
		}
		if Dial(addrB) == nil {
			t.Error("a clone reaches another")
		}
		return nil
	})
	if got := sysctl(t, "net/ipv4/ip_forward"); got != forward {
		t.Errorf("the host became a router: ip_forward is %s", got)
	}
}

// testHostileClone has a clone that may change its network, on a host that
// routes, as one with docker does.
func testHostileClone(t *testing.T, open Open) {
	cfg := Setup(t)
	n := MustOpen(t, open, cfg)
	a, b := MustAdd(t, n, "ca"), MustAdd(t, n, "cb")
	addrB := Serve(t, b)
	setSysctl(t, "net/ipv4/ip_forward", "1")
	_, subnet := lan(t, cfg)
	Inside(t, a, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		// Directly, then by way of the host.
		for _, gw := range []net.IP{nil, subnet.Addr().Next().AsSlice()} {
			dst := &net.IPNet{IP: b.Addrs[0].AsSlice(), Mask: net.CIDRMask(32, 32)}
			scope, flags := netlink.SCOPE_LINK, 0
			if gw != nil {
				scope, flags = netlink.SCOPE_UNIVERSE, int(netlink.FLAG_ONLINK)
			}
			if err := netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst, Gw: gw, Scope: scope, Flags: flags}); err != nil {
				return err
			}
			if Dial(addrB) == nil {
				t.Errorf("a clone reaches another via %v", gw)
			}
		}
		return nil
	})
	if err := Dial(addrB); err != nil {
		t.Errorf("host to clone: %v", err)
	}
}

func sysctl(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// setSysctl sets a value until the end of the test.
func setSysctl(t testing.TB, name, value string) {
	t.Helper()
	old := sysctl(t, name)
	set := func(v string) {
		if err := os.WriteFile("/proc/sys/"+name, []byte(v), 0); err != nil {
			t.Error(err)
		}
	}
	set(value)
	t.Cleanup(func() { set(old) })
}

func testNames(t *testing.T, open Open) {
	cfg := Setup(t)
	n := MustOpen(t, open, cfg)
	ns := MustAdd(t, n, "c0123456789a")
	if ns.ID != "c0123456789a" || !netns.Is(ns.Path) || !strings.HasPrefix(ns.Path, cfg.StateDir) {
		t.Errorf("namespace %+v", ns)
	}
	if _, subnet := lan(t, cfg); len(ns.Addrs) == 0 || !subnet.Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v in %s", ns.Addrs, subnet)
	}
	if ids, err := n.Namespaces(t.Context()); err != nil || !slices.Equal(ids, []string{"c0123456789a"}) {
		t.Errorf("namespaces %v, %v", ids, err)
	}
	if _, err := n.Add(t.Context(), "c0123456789a", network.Options{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second add: %v", err)
	}
	if err := Dial(Serve(t, ns)); err != nil {
		t.Errorf("the refused add broke the first: %v", err)
	}
}

// testRemove removes what is whole, not there, and half made or removed.
func testRemove(t *testing.T, open Open) {
	cfg := Setup(t)
	n := MustOpen(t, open, cfg)
	MustRemove(t, n, "never")
	ns := MustAdd(t, n, "ca")
	addr := Serve(t, ns)
	MustRemove(t, n, "ca")
	MustRemove(t, n, "ca")
	if Dial(addr) == nil {
		t.Error("a process that outlived its namespace is reached")
	}

	dir := filepath.Join(cfg.StateDir, "netns")
	if err := os.WriteFile(filepath.Join(dir, "cb"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	MustRemove(t, n, "cb")
	if _, err := netns.Make(dir, "cc"); err != nil {
		t.Fatal(err)
	}
	MustRemove(t, n, "cc")
	if err := unix.Unmount(MustAdd(t, n, "cd").Path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	MustRemove(t, n, "cd")
	if ids, err := n.Namespaces(t.Context()); len(ids) > 0 || err != nil {
		t.Errorf("namespaces left: %v, %v", ids, err)
	}
}

func testIDs(t *testing.T, open Open) {
	n := MustOpen(t, open, Setup(t))
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a\x00b", "A", strings.Repeat("a", 64)} {
		if _, err := n.Add(t.Context(), id, network.Options{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("add %q: %v", id, err)
		}
		if err := n.Remove(t.Context(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
}

func testConcurrentAdds(t *testing.T, open Open) {
	n := MustOpen(t, open, Setup(t))
	all := AddMany(t, n, "c", 20, func() error { return n.Reconcile(t.Context(), nil) })
	seen := map[netip.Addr]string{}
	for _, ns := range all {
		if other, dup := seen[ns.Addrs[0]]; dup {
			t.Errorf("%s and %s both have %s", ns.ID, other, ns.Addrs[0])
		}
		seen[ns.Addrs[0]] = ns.ID
		if err := Dial(Serve(t, ns)); err != nil {
			t.Error(err)
		}
	}
	var g errgroup.Group
	for _, ns := range all {
		g.Go(func() error { return n.Remove(t.Context(), ns.ID) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// AddMany adds namespaces at once, and runs what must not disturb them beside.
func AddMany(t testing.TB, n network.Provider, prefix string, count int, beside func() error) []network.Namespace {
	t.Helper()
	var (
		g   errgroup.Group
		mu  sync.Mutex
		all []network.Namespace
	)
	for i := range count {
		g.Go(func() error {
			ns, err := n.Add(t.Context(), fmt.Sprintf("%s%d", prefix, i), network.Options{})
			mu.Lock()
			defer mu.Unlock()
			all = append(all, ns)
			return err
		})
	}
	if beside != nil {
		g.Go(beside)
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

// testRace has adds and removals of one id race: whatever wins, nothing is left.
func testRace(t *testing.T, open Open) {
	n := MustOpen(t, open, Setup(t))
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			_, err := n.Add(t.Context(), "ca", network.Options{})
			if errdefs.IsAlreadyExists(err) {
				return nil
			}
			return err
		})
		g.Go(func() error { return n.Remove(t.Context(), "ca") })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	MustRemove(t, n, "ca")
	MustAdd(t, n, "ca")
}

func testCanceled(t *testing.T, open Open) {
	cfg := Setup(t)
	ctx, cancel := context.WithCancel(t.Context())
	cfg.Failpoint = func(string) error { cancel(); return nil }
	n := MustOpen(t, open, cfg)
	for range 2 { // while it runs, and before
		if _, err := n.Add(ctx, "ca", network.Options{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("add: %v", err)
		}
		if ids, err := n.Namespaces(t.Context()); len(ids) > 0 || err != nil {
			t.Errorf("namespaces left: %v, %v", ids, err)
		}
	}
}

func testExhausted(t *testing.T, open Open) {
	cfg := Setup(t)
	cfg.Subnet = netip.MustParsePrefix("10.99.0.0/29")
	n := MustOpen(t, open, cfg)
	for i := range 5 {
		MustAdd(t, n, fmt.Sprintf("c%d", i))
	}
	_, err := n.Add(t.Context(), "c5", network.Options{})
	if !errdefs.IsResourceExhausted(err) || Hint(err) == "" || !strings.Contains(err.Error(), "c5") {
		t.Errorf("add: %v, hint %q", err, Hint(err))
	}
	if ids, _ := n.Namespaces(t.Context()); len(ids) != 5 {
		t.Errorf("namespaces %v", ids)
	}
	MustRemove(t, n, "c2")
	MustAdd(t, n, "c5")
}

func testReconcile(t *testing.T, open Open) {
	n := MustOpen(t, open, Setup(t))
	live := MustAdd(t, n, "clive")
	lost := MustAdd(t, n, "clost")
	if err := netns.Delete(lost.Path); err != nil {
		t.Fatal(err)
	}
	if err := n.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	MustRemove(t, n, "clost")
	if err := Dial(Serve(t, live)); err != nil {
		t.Errorf("the living one was hurt: %v", err)
	}
}

func testTeardown(t *testing.T, open Open) {
	cfg := Setup(t)
	n, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	MustAdd(t, n, "ca")
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	if err := n.Teardown(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("teardown in use: %v", err)
	}
	MustRemove(t, n, "ca")
	for range 2 {
		if err := n.Teardown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(cfg.StateDir); len(left) > 0 {
		t.Errorf("state left: %v", left)
	}
}
