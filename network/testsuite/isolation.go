package testsuite

import (
	"errors"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// RunIsolation runs what networks with leases must do beside [Run].
func RunIsolation(t *testing.T, open Open) {
	for _, tt := range []struct {
		name string
		run  func(*testing.T, Open)
	}{
		{"Leases", testLeases},
		{"Assign", testAssign},
		{"HostServices", testHostServices},
		{"Spoofing", testSpoofing},
		{"Egress", testEgress},
		{"EgressOfRouter", testEgressOfRouter},
		{"Containers", testContainers},
		{"WantedAddress", testWantedAddress},
		{"RulesAfterRestart", testRulesAfterRestart},
		{"RulesFlushed", testRulesFlushed},
		{"NoIPv6", testNoIPv6},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, open) })
	}
}

// MustAddTo adds a namespace with options.
func MustAddTo(t testing.TB, n network.Provider, id string, opts network.Options) network.Namespace {
	t.Helper()
	ns, err := n.Add(t.Context(), id, opts)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func testLeases(t *testing.T, open Open) {
	setSysctl(t, "net/ipv4/ip_forward", "1") // worst case: the host is a router
	n := MustOpen(t, open, Setup(t))
	of := map[string]string{"ca": "one", "cb": "one", "cc": "two", "cd": ""}
	all, ports := map[string]network.Namespace{}, map[string]int{}
	for id, lease := range of {
		all[id] = MustAddTo(t, n, id, network.Options{Lease: lease})
		if len(all[id].Addrs) != 2 || !all[id].Addrs[0].Is4() || !all[id].Addrs[1].Is6() {
			t.Fatalf("addresses %v", all[id].Addrs)
		}
		ports[id] = EchoIn(t, all[id])
		MustReach(t, "the host", all[id].Addrs, ports[id])
	}
	for from := range all {
		Inside(t, all[from], func() error {
			for to, ns := range all {
				if of[from] == of[to] && (of[from] != "" || from == to) {
					MustReach(t, from, ns.Addrs, ports[to])
				} else {
					MustNotReach(t, from, ns.Addrs, ports[to])
				}
			}
			return nil
		})
	}
}

func testAssign(t *testing.T, open Open) {
	n := MustOpen(t, open, Setup(t))
	a, b := MustAddTo(t, n, "ca", network.Options{Lease: "one"}), MustAdd(t, n, "cb")
	port := EchoIn(t, b)
	for _, lease := range []string{"", "one", "two", "one", ""} {
		if err := n.Assign(t.Context(), "cb", network.Options{Lease: lease}); err != nil {
			t.Fatal(err)
		}
		Inside(t, a, func() error {
			if lease == "one" {
				MustReach(t, "the lease", b.Addrs, port)
			} else {
				MustNotReach(t, "another lease", b.Addrs, port)
			}
			return nil
		})
	}
	if err := n.Assign(t.Context(), "cx", network.Options{}); !errdefs.IsNotFound(err) {
		t.Errorf("assign of none: %v", err)
	}
	long := network.Options{Lease: string(make([]byte, 201))}
	if err := n.Assign(t.Context(), "cb", long); !errdefs.IsInvalidArgument(err) {
		t.Errorf("assign to a long name: %v", err)
	}
	if _, err := n.Add(t.Context(), "cy", long); !errdefs.IsInvalidArgument(err) {
		t.Errorf("add with a long name: %v", err)
	}
}

// testHostServices has the host listen everywhere: clones get to ask for names
// at the gateway.
func testHostServices(t *testing.T, open Open) {
	cfg := Setup(t)
	n := MustOpen(t, open, cfg)
	AddLink(t, "lan0", "10.96.5.1/24")
	ns := MustAddTo(t, n, "ca", network.Options{Egress: true})
	port, dns := Echo(t, 0), Echo(t, 53)
	gateways := gateways(t, cfg)
	if len(gateways) != 2 {
		t.Fatalf("gateways %v", gateways)
	}
	other := []netip.Addr{netip.MustParseAddr("10.96.5.1")}
	Inside(t, ns, func() error {
		MustReach(t, "a clone", gateways, dns)
		MustNotReach(t, "a clone", gateways, port)
		MustNotReach(t, "a clone", other, port)
		MustNotReach(t, "a clone", other, dns)
		return nil
	})
}

// gateways are the host's addresses on its bridge.
func gateways(t testing.TB, cfg Config) (all []netip.Addr) {
	t.Helper()
	name, _ := lan(t, cfg)
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr, _ := netip.AddrFromSlice(a.IP)
		all = append(all, addr.Unmap())
	}
	return all
}

func testWantedAddress(t *testing.T, open Open) {
	cfg := Setup(t)
	cfg.Subnet = netip.MustParsePrefix("10.98.0.0/21")
	n, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := func(s string) network.Options { return network.Options{Addr: netip.MustParseAddr(s)} }
	for id, addr := range map[string]string{"ca": "10.98.0.77", "cb": "10.98.5.9"} { // of the second bridge
		if ns := MustAddTo(t, n, id, want(addr)); ns.Addrs[0].String() != addr {
			t.Errorf("addresses %v, want %s", ns.Addrs, addr)
		} else if err := Dial(Serve(t, ns)); err != nil {
			t.Error(err)
		}
	}
	refuse := func(n network.Provider) {
		t.Helper()
		for _, tt := range []struct {
			addr string
			is   func(error) bool
		}{
			{"10.98.0.77", errdefs.IsAlreadyExists},
			{"10.98.0.0", errdefs.IsInvalidArgument}, {"10.98.0.1", errdefs.IsInvalidArgument}, {"10.98.3.255", errdefs.IsInvalidArgument},
			{"10.99.0.7", errdefs.IsInvalidArgument}, {"fd00::7", errdefs.IsInvalidArgument},
		} {
			if _, err := n.Add(t.Context(), "cx", want(tt.addr)); !tt.is(err) || Hint(err) == "" {
				t.Errorf("add with %s: %v", tt.addr, err)
			}
		}
		if ids, err := n.Namespaces(t.Context()); err != nil || len(ids) != 2 {
			t.Errorf("namespaces %v, %v", ids, err)
		}
	}
	refuse(n)
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	n = MustOpen(t, open, cfg)
	refuse(n)
	MustRemove(t, n, "ca")
	MustAddTo(t, n, "ca", want("10.98.0.77"))
}

// testRulesAfterRestart compares what the kernel has before and after.
func testRulesAfterRestart(t *testing.T, open Open) {
	cfg := Setup(t)
	n, closeIt, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	opts := map[string]network.Options{"ca": {Lease: "one", Egress: true}, "cb": {Lease: "one"}, "cc": {}}
	all := map[string]network.Namespace{}
	for id, o := range opts {
		all[id] = MustAddTo(t, n, id, o)
	}
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	before := rules(t)
	MustOpen(t, open, cfg)
	if after := rules(t); !maps.EqualFunc(before, after, slices.Equal) {
		t.Errorf("rules %v\nwere %v", after, before)
	}
	port := EchoIn(t, all["cb"])
	Inside(t, all["ca"], func() error { MustReach(t, "the lease", all["cb"].Addrs, port); return nil })
	Inside(t, all["cc"], func() error { MustNotReach(t, "another", all["cb"].Addrs, port); return nil })
	MustAgree(t)
}

// rules returns the addresses that the sets of clones have.
func rules(t testing.TB) map[string][]string {
	t.Helper()
	tables := Tables(t)
	if len(tables) != 2 || tables[0] != tables[1] {
		t.Fatalf("tables %v", tables)
	}
	return Elements(t, tables[0], "bridges", "gateway4", "gateway6", "egress4", "egress6")
}

// MustAgree fails unless there is one entry for each link and one link for each
// entry, before long: a pool may be at work.
func MustAgree(t testing.TB) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patient); ; <-tick.C {
		links, rules := linked(t), ruled(t)
		if slices.Equal(links, rules) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("links of %v, rules of %v", links, rules)
			return
		}
	}
}

// linked lists the addresses in the names of links, ruled those in the rules.
func linked(t testing.TB) (list []string) {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; l.Type() == "veth" && len(name) == len("veth0ad50005") {
			list = append(list, name[len("veth"):])
		}
	}
	slices.Sort(list)
	return list
}

func ruled(t testing.TB) (list []string) {
	t.Helper()
	for _, table := range slices.Compact(Tables(t)) {
		for _, e := range Elements(t, table, "source4")["source4"] {
			list = append(list, e[16:24]) // after hardware address and padding
		}
	}
	slices.Sort(list)
	return list
}

// testRulesFlushed deletes the tables, as a restart of another firewall may.
func testRulesFlushed(t *testing.T, open Open) {
	n := MustOpen(t, open, Setup(t))
	a, b := MustAddTo(t, n, "ca", network.Options{Lease: "one"}), MustAddTo(t, n, "cb", network.Options{Lease: "one"})
	DeleteTables(t)
	if err := n.Assign(t.Context(), "ca", network.Options{Lease: "two"}); err != nil {
		t.Fatal(err)
	}
	MustAgree(t)
	port := EchoIn(t, b)
	Inside(t, a, func() error { MustNotReach(t, "another lease", b.Addrs, port); return nil })
	DeleteTables(t)
	MustRemove(t, n, "ca")
	MustAgree(t)
}

// testNoIPv6 is a host where IPv6 is switched off.
func testNoIPv6(t *testing.T, open Open) {
	if _, err := os.Stat("/proc/sys/net/ipv6"); errors.Is(err, os.ErrNotExist) {
		t.Skip("the kernel has no IPv6")
	}
	setSysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
	n := MustOpen(t, open, Setup(t))
	a, b := MustAddTo(t, n, "ca", network.Options{Lease: "one"}), MustAddTo(t, n, "cb", network.Options{Lease: "one"})
	if len(a.Addrs) != 1 || !a.Addrs[0].Is4() {
		t.Errorf("addresses %v", a.Addrs)
	}
	port := EchoIn(t, b)
	MustReach(t, "the host", b.Addrs, port)
	Inside(t, a, func() error { MustReach(t, "the lease", b.Addrs, port); return nil })
	if netns.HasIPv6() {
		t.Error("the host was given IPv6")
	}
}
