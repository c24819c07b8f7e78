package cni

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

// lease writes what flanneld would.
func lease(t *testing.T, path, subnet string) {
	t.Helper()
	text := fmt.Sprintf("FLANNEL_NETWORK=10.95.0.0/16\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", subnet)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestFlannel needs no configuration, and notices another lease.
func TestFlannel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	var log bytes.Buffer
	opts := testOptions(t)
	opts.Networks, opts.Log = []Conf{Flannel(file)}, slog.New(slog.NewTextHandler(&log, nil))
	n := mustOpen(t, opts)
	if !strings.Contains(log.String(), "network cannot be used yet") {
		t.Errorf("log: %s", &log)
	}
	if _, err := n.Add(t.Context(), "ca", network.Options{}); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), file) {
		t.Errorf("add before flanneld runs: %v", err)
	}
	checkNothingHeld(t, n)

	lease(t, file, "10.95.7.1/24")
	a := testsuite.MustAdd(t, n, "ca")
	if err := n.Check(t.Context(), a); err != nil || !netip.MustParsePrefix("10.95.7.0/24").Contains(a.Addrs[0]) {
		t.Errorf("addresses %v, %v", a.Addrs, err)
	}
	testsuite.Inside(t, a, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil || link.Attrs().MTU != 1450 {
			t.Errorf("MTU %v, %v", link, err)
		}
		return nil
	})

	lease(t, file, "10.95.9.1/24")
	if err := n.Check(t.Context(), a); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("one of the old lease is handed out: %v", err)
	}
	if !strings.Contains(log.String(), "before=10.95.7.0/24 now=10.95.9.0/24") {
		t.Errorf("log: %s", &log)
	}
	b := testsuite.MustAdd(t, n, "cb")
	if !netip.MustParsePrefix("10.95.9.0/24").Contains(b.Addrs[0]) {
		t.Errorf("addresses %v", b.Addrs)
	}
	for _, ns := range []network.Namespace{a, b} {
		if err := testsuite.Dial(testsuite.Serve(t, ns)); err != nil {
			t.Errorf("%s: %v", ns.ID, err)
		}
	}
	if got := bridges(t); len(got) != 2 {
		t.Errorf("bridges %v", got)
	}
	testsuite.MustRemove(t, n, "ca")
	if err := n.Reconcile(t.Context(), nil); err != nil || len(bridges(t)) != 1 {
		t.Errorf("bridges %v, %v", bridges(t), err)
	}
}

func bridges(t *testing.T) (names []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "ctrfl") {
			names = append(names, l.Attrs().Name)
		}
	}
	return names
}

// TestFlannelConflist has what Kubernetes' manifest writes, and a limit.
func TestFlannelConflist(t *testing.T) {
	file := filepath.Join(t.TempDir(), "subnet.env")
	lease(t, file, "10.95.11.1/24")
	opts := testOptions(t, fmt.Sprintf(`{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [
		{"type": "flannel", "subnetFile": %q, "delegate": {"bridge": "cnifl0", "hairpinMode": true, "isDefaultGateway": true}},
		{"type": "portmap", "capabilities": {"portMappings": true}},
		{"type": "bandwidth", "ingressRate": 8000000, "ingressBurst": 8000000}]}`, file))
	for _, p := range []string{"portmap", "bandwidth"} {
		if _, err := os.Stat(filepath.Join(opts.BinDirs[0], p)); err != nil {
			t.Fatal(err)
		}
	}
	n := mustOpen(t, opts)
	ns := testsuite.MustAdd(t, n, "ca")
	if err := testsuite.Dial(testsuite.Serve(t, ns)); err != nil {
		t.Error(err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	limited := func(l netlink.Link) bool {
		qdiscs, err := netlink.QdiscList(l)
		return err == nil && slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "tbf" })
	}
	if !slices.ContainsFunc(links, limited) {
		t.Error("no link is limited")
	}
	lease(t, file, "10.95.12.1/24")
	_, err = n.Add(t.Context(), "cb", network.Options{})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "cnifl0") || testsuite.Hint(err) == "" {
		t.Errorf("add to a bridge of the old lease: %v", err)
	}
}
