package cni

import (
	"bytes"
	"fmt"
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
	opts := testOptions(t)
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
	if err := os.Remove(filepath.Join(opts.BinDirs[0], "bridge")); err != nil {
		t.Fatal(err)
	}
	_, err = n.Add(t.Context(), "ca", network.Options{})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(testsuite.Hint(err), opts.BinDirs[0]) {
		t.Errorf("add: %v, hint %q", err, testsuite.Hint(err))
	}
	checkNothingHeld(t, n)
}

func TestReconcile(t *testing.T) {
	n := mustOpen(t, testOptions(t))
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

// bridgeConflist is a configuration as a user would write it.
func bridgeConflist(bridge, cidr string) []byte {
	return fmt.Appendf(nil, `{"cniVersion": "1.0.0", "name": "mine", "plugins": [
		{"type": "bridge", "bridge": %q, "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]]}}]}`, bridge, cidr)
}

func TestConflistOfTheUser(t *testing.T) {
	opts := testOptions(t)
	opts.Conflist = bridgeConflist("mybr0", "10.98.0.0/24")
	n := mustOpen(t, opts)
	t.Cleanup(func() {
		if br, err := netlink.LinkByName("mybr0"); err == nil {
			_ = netlink.LinkDel(br)
		}
	})
	ns := testsuite.MustAdd(t, n, "ca")
	if len(ns.Addrs) != 1 || !subnet("10.98.0.0/24").Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v", ns.Addrs)
	}
	if ids, _ := n.recorded(); !slices.Equal(ids, []string{"ca"}) {
		t.Errorf("host-local keeps its records elsewhere; here are %v", ids)
	}
	testsuite.MustRemove(t, n, "ca")
	checkNothingHeld(t, n)
}

func TestBadConflist(t *testing.T) {
	opts := testOptions(t)
	for name, doc := range map[string]string{
		"empty": "", "not json": "{", "no name": `{"cniVersion":"1.0.0","plugins":[{"type":"bridge"}]}`,
		"no plugins": `{"cniVersion":"1.0.0","name":"x"}`, "none": `{"cniVersion":"1.0.0","name":"x","plugins":[]}`,
		"no type": `{"cniVersion":"1.0.0","name":"x","plugins":[{}]}`, "list": `[]`, "null": `null`,
	} {
		opts.Conflist = []byte(doc)
		if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) || testsuite.Hint(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	opts.Conflist = []byte(`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"nonesuch"}]}`)
	if _, err := Open(t.Context(), opts); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "nonesuch") {
		t.Errorf("unknown plugin: %v", err)
	}
	opts.Conflist = bridgeConflist("mybr1", "10.98.1.0/24")
	opts.Bridge = "mybr1"
	if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bridge and conflist: %v", err)
	}
	// What only the plugin can find.
	opts.Bridge, opts.Conflist = "", bytes.Replace(bridgeConflist("mybr1", "10.98.1.0/24"), []byte(`"ipam"`), []byte(`"vlan": 9999, "ipam"`), 1)
	n := mustOpen(t, opts)
	if _, err := n.Add(t.Context(), "ca", network.Options{}); err == nil || !strings.Contains(err.Error(), "network mine") || !strings.Contains(err.Error(), "9999") {
		t.Errorf("add: %v", err)
	}
}

// BenchmarkAddRemove reports the medians of both in milliseconds.
func BenchmarkAddRemove(b *testing.B) {
	n := mustOpen(b, testOptions(b))
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
