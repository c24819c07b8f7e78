package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMissingPlugin(t *testing.T) {
	opts := testOptions(t, bridgeConflist("own", "10.98.1.0/24", ""))
	good := opts.BinDirs[0]
	opts.BinDirs = []string{t.TempDir()}
	_, err := Open(t.Context(), opts)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(testsuite.Hint(err), opts.BinDirs[0]) {
		t.Errorf("open: %v, hint %q", err, testsuite.Hint(err))
	}
	// Gone after Open.
	for _, p := range []string{"bridge", "host-local"} {
		b, err := os.ReadFile(filepath.Join(good, p))
		if err == nil {
			err = os.WriteFile(filepath.Join(opts.BinDirs[0], p), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	n := mustOpen(t, opts)
	bridge := filepath.Join(opts.BinDirs[0], "bridge")
	if err := os.Rename(bridge, bridge+".off"); err != nil {
		t.Fatal(err)
	}
	_, err = n.Add(t.Context(), "ca", network.Options{})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(testsuite.Hint(err), opts.BinDirs[0]) {
		t.Errorf("add: %v, hint %q", err, testsuite.Hint(err))
	}
	if err := n.Verify(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("verify: %v", err)
	}
	if err := os.Rename(bridge+".off", bridge); err != nil {
		t.Fatal(err)
	}
	checkNothingHeld(t, n)
}

func TestReconcile(t *testing.T) {
	n := mustOpen(t, testOptions(t, bridgeConflist("own", "10.98.1.0/24", "")))
	live := testsuite.MustAdd(t, n, "clive")
	for _, id := range []string{"cgone", "ckept"} {
		testsuite.MustAdd(t, n, id)
		if err := netns.Delete(n.dir("netns", id)); err != nil {
			t.Fatal(err)
		}
	}
	// A crash before libcni wrote its record leaves only the reservation.
	records, _ := filepath.Glob(n.dir("cni", "cache", "results", "*cgone*"))
	if len(records) != 1 || os.Remove(records[0]) != nil {
		t.Fatalf("records %v", records)
	}
	if err := n.Reconcile(t.Context(), []string{"ckept"}); err != nil {
		t.Fatal(err)
	}
	if ids, err := n.recorded(); err != nil || !slices.Equal(ids, []string{"ckept", "clive"}) {
		t.Errorf("records %v, %v", ids, err)
	}
	if err := testsuite.Dial(testsuite.Serve(t, live)); err != nil {
		t.Errorf("the living one was hurt: %v", err)
	}
	if err := n.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if ids, _ := n.recorded(); !slices.Equal(ids, []string{"clive"}) {
		t.Errorf("records %v", ids)
	}
}

// TestGarbageIsCollectedAtStart leaves what a crash leaves.
func TestGarbageIsCollectedAtStart(t *testing.T) {
	opts := testOptions(t, bridgeConflist("own", "10.98.1.0/24", ""))
	n := mustOpen(t, opts)
	testsuite.MustAdd(t, n, "ca")
	testsuite.MustAdd(t, n, "cb")
	if err := netns.Delete(n.dir("netns", "cb")); err != nil {
		t.Fatal(err)
	}
	second, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if ids, _ := second.recorded(); !slices.Equal(ids, []string{"ca"}) {
		t.Errorf("records %v", ids)
	}
}

func TestSeveralNetworks(t *testing.T) {
	n := mustOpen(t, testOptions(t, bridgeConflist("one", "10.98.1.0/24", ""), bridgeConflist("two", "10.98.2.0/24", "")))
	ns := testsuite.MustAdd(t, n, "ca")
	if len(ns.Addrs) != 1 || !netip.MustParsePrefix("10.98.1.0/24").Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v", ns.Addrs)
	}
	testsuite.Inside(t, ns, func() error {
		for i, subnet := range []string{"10.98.1.0/24", "10.98.2.0/24"} {
			link, err := netlink.LinkByName(fmt.Sprintf("eth%d", i))
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
			if err != nil || len(addrs) != 1 || !netip.MustParsePrefix(subnet).Contains(netip.MustParseAddr(addrs[0].IP.String())) {
				t.Errorf("eth%d has %v, %v", i, addrs, err)
			}
		}
		return nil
	})
	// The second cannot be attached: the first is taken back.
	n.confs[1].list.Plugins[0].Network.Type = "nonesuch"
	if _, err := n.Add(t.Context(), "cb", network.Options{}); err == nil || !strings.Contains(err.Error(), "network two") {
		t.Errorf("add: %v", err)
	}
	n.confs[1].list.Plugins[0].Network.Type = "bridge"
	if ids, _ := n.recorded(); !slices.Equal(ids, []string{"ca"}) {
		t.Errorf("records %v", ids)
	}
}

func TestWantedAddress(t *testing.T) {
	n := mustOpen(t, testOptions(t, bridgeConflist("own", "10.98.1.0/24", "")))
	want := network.Options{Addr: netip.MustParseAddr("10.98.1.77")}
	ns, err := n.Add(t.Context(), "ca", want)
	if err != nil || !slices.Equal(ns.Addrs, []netip.Addr{want.Addr}) {
		t.Fatalf("%v, %v", ns, err)
	}
	if _, err := n.Add(t.Context(), "cb", want); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "10.98.1.77") {
		t.Errorf("taken address: %v", err)
	}
	want.Addr = netip.MustParseAddr("10.98.2.77")
	if _, err := n.Add(t.Context(), "cb", want); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "10.98.2.77") {
		t.Errorf("address of another range: %v", err)
	}
	if ids, _ := n.recorded(); !slices.Equal(ids, []string{"ca"}) {
		t.Errorf("records %v", ids)
	}
}

// TestChangedConfiguration has clones of the old one removed by the old one.
func TestChangedConfiguration(t *testing.T) {
	opts := testOptions(t, bridgeConflist("old", "10.98.1.0/24", ""))
	old, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ns := testsuite.MustAdd(t, old, "ca")
	opts.Networks = []Conf{conf(t, bridgeConflist("new", "10.98.2.0/24", ""))}
	n := mustOpen(t, opts)
	if err := n.Check(t.Context(), ns); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("one of the old network is handed out: %v", err)
	}
	if ns := testsuite.MustAdd(t, n, "cb"); n.Check(t.Context(), ns) != nil {
		t.Error("one of the new network is not handed out")
	}
	testsuite.MustRemove(t, n, "ca")
	if left, _ := filepath.Glob(n.dir("cni", "ipam", "old", "10.*")); len(left) > 0 {
		t.Errorf("reserved still: %v", left)
	}
}

func TestVerify(t *testing.T) {
	n := mustOpen(t, testOptions(t, bridgeConflist("own", "10.98.1.0/24", "")))
	a, b := testsuite.MustAdd(t, n, "ca"), testsuite.MustAdd(t, n, "cb")
	if err := n.Verify(t.Context()); err != nil {
		t.Errorf("verify: %v", err)
	}
	testsuite.Inside(t, a, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	err := n.Verify(t.Context())
	if err == nil || !strings.Contains(err.Error(), "check ca on network own") {
		t.Errorf("verify: %v", err)
	}
	if n.Check(t.Context(), a) == nil {
		t.Error("a namespace without its link is handed out")
	}
	if err := n.Check(t.Context(), b); err != nil {
		t.Errorf("check: %v", err)
	}
}

// TestPluginError names network, plugin, message and code.
func TestPluginError(t *testing.T) {
	n := mustOpen(t, testOptions(t, bridgeConflist("mine", "10.98.1.0/24", `"vlan": 9999,`)))
	_, err := n.Add(t.Context(), "ca", network.Options{})
	for _, want := range []string{"attach ca to network mine", `type="bridge"`, "9999"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("add: %v: want %q", err, want)
		}
	}
	fake := t.TempDir()
	write(t, fake, "fake", "#!/bin/sh\necho '{\"cniVersion\":\"1.0.0\",\"code\":11,\"msg\":\"not now\"}'; [ $CNI_COMMAND = DEL ] || exit 1\n")
	if err := os.Chmod(filepath.Join(fake, "fake"), 0o700); err != nil {
		t.Fatal(err)
	}
	opts := testOptions(t, `{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"fake"}]}`)
	opts.BinDirs = append(opts.BinDirs, fake)
	_, err = mustOpen(t, opts).Add(t.Context(), "ca", network.Options{})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "not now (CNI error 11)") {
		t.Errorf("add: %v", err)
	}
}

func TestRangeOverlapsRoute(t *testing.T) {
	opts := testOptions(t, bridgeConflist("own", "10.98.7.0/24", ""))
	testsuite.AddLink(t, "lan7", "10.98.7.200/28")
	_, err := Open(t.Context(), opts)
	for _, want := range []string{"network own", "10.98.7.0/24", "lan7"} {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("open: %v: want %q", err, want)
		}
	}
}

func TestSharedNetwork(t *testing.T) {
	opts := testOptions(t)
	path := write(t, t.TempDir(), "x.conflist", bridgeConflist("ctrsnap-shared-test", "10.98.8.0/24", ""))
	c, err := Read(path, true)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(sharedDir, c.Name)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	opts.Networks = []Conf{c}
	n := mustOpen(t, opts)
	ns := testsuite.MustAdd(t, n, "ca")
	got, err := os.ReadFile(filepath.Join(dir, ns.Addrs[0].String()))
	if err != nil || !strings.HasPrefix(string(got), "ctrsnap-") {
		t.Errorf("reservation: %q, %v", got, err)
	}
	// Somebody else's reservation, and one of ours from before a reboot.
	write(t, dir, "10.98.8.100", "cother\r\neth0")
	write(t, dir, "10.98.8.101", n.tag()+"cgone\r\neth0")
	if err := n.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "10.98.8.100")); err != nil {
		t.Errorf("another's reservation: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "10.98.8.101")); err == nil {
		t.Error("a reservation of ours is left")
	}
}

// BenchmarkAddRemove reports the medians of both in milliseconds.
func BenchmarkAddRemove(b *testing.B) {
	n := mustOpen(b, testOptions(b, bridgeConflist("own", "10.98.1.0/24", "")))
	var add, remove []time.Duration
	for b.Loop() {
		t0 := time.Now()
		testsuite.MustAdd(b, n, "ca")
		t1 := time.Now()
		testsuite.MustRemove(b, n, "ca")
		add, remove = append(add, t1.Sub(t0)), append(remove, time.Since(t1))
	}
	b.ReportMetric(median(add), "add-p50-ms")
	b.ReportMetric(median(remove), "remove-p50-ms")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}
