package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

func contextOf(t testing.TB) context.Context { return context.WithoutCancel(t.Context()) }

func mustAdd(t testing.TB, n *Network, id string) network.Namespace {
	t.Helper()
	ns, err := n.Add(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func mustRemove(t testing.TB, n *Network, id string) {
	t.Helper()
	if err := n.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// inside runs fn on a thread in a namespace.
func inside(t testing.TB, ns network.Namespace, fn func() error) error {
	t.Helper()
	return onNewThread(func() error {
		f, err := os.Open(ns.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

// serve listens in a namespace until the end of the test.
func serve(t testing.TB, ns network.Namespace) (addr string) {
	t.Helper()
	err := inside(t, ns, func() error {
		l, err := net.Listen("tcp4", "0.0.0.0:0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		port := l.Addr().(*net.TCPAddr).Port
		addr = netip.AddrPortFrom(ns.Addrs[0], uint16(port)).String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func dial(addr string) error {
	c, err := net.DialTimeout("tcp", addr, 500*time.Millisecond)
	if err != nil {
		return err
	}
	return c.Close()
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func TestHostReachesCloneAndNobodyElse(t *testing.T) {
	forward := sysctl(t, "net/ipv4/ip_forward")
	n := mustOpen(t, testOptions(t))
	a, b := mustAdd(t, n, "ca"), mustAdd(t, n, "cb")
	addrA, addrB := serve(t, a), serve(t, b)
	for _, addr := range []string{addrA, addrB} {
		if err := dial(addr); err != nil {
			t.Errorf("host to clone: %v", err)
		}
	}
	err := inside(t, a, func() error {
		_, port, _ := net.SplitHostPort(addrA)
		if err := dial("127.0.0.1:" + port); err != nil {
			t.Errorf("loopback: %v", err)
		}
		if dial(addrB) == nil {
			t.Error("a clone reaches another")
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil || len(routes) != 1 {
			t.Errorf("a clone has other routes than that to its subnet: %v, %v", routes, err)
		}
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		if err != nil || len(addrs) != 0 {
			t.Errorf("a clone has IPv6 addresses: %v, %v", addrs, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if got := sysctl(t, "net/ipv4/ip_forward"); got != forward {
		t.Errorf("the host became a router: ip_forward is %s", got)
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

func TestNamespaceIsNamedByItsID(t *testing.T) {
	opts := testOptions(t)
	n := mustOpen(t, opts)
	ns := mustAdd(t, n, "c0123456789a")
	if want := filepath.Join(opts.StateDir, "netns", "c0123456789a"); ns.Path != want || !isNS(want) {
		t.Errorf("path %s, want %s", ns.Path, want)
	}
	if len(ns.Addrs) != 1 || !n.bridge.subnet.Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v in %s", ns.Addrs, n.bridge.subnet)
	}
	if ids, err := n.Namespaces(t.Context()); err != nil || !slices.Equal(ids, []string{"c0123456789a"}) {
		t.Errorf("namespaces %v, %v", ids, err)
	}
	links, err := whole(netlink.LinkList)
	if err != nil || !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Alias == "ctrsnap c0123456789a" }) {
		t.Errorf("the host's end has no name: %v", err)
	}
	if _, err := n.Add(t.Context(), "c0123456789a"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second add: %v", err)
	}
	if err := dial(serve(t, ns)); err != nil {
		t.Errorf("the refused add broke the first: %v", err)
	}
}

func TestRemoveIsIdempotent(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	mustRemove(t, n, "never")
	mustAdd(t, n, "ca")
	mustRemove(t, n, "ca")
	mustRemove(t, n, "ca")
	checkNothingHeld(t, n)

	// Half made: the file, then the namespace without a link.
	if err := os.WriteFile(n.dir("netns", "cb"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, n, "cb")
	if _, err := makeNS(n.dir("netns"), "cc"); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, n, "cc")
	// Half removed: unmounted, the address still reserved.
	mustAdd(t, n, "cd")
	if err := unix.Unmount(n.dir("netns", "cd"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, n, "cd")
	checkNothingHeld(t, n)
}

func TestIDsAreNames(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a\x00b", "A", strings.Repeat("a", 64)} {
		if _, err := n.Add(t.Context(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("add %q: %v", id, err)
		}
		if err := n.Remove(t.Context(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
}

func TestConcurrentAdds(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	var (
		g    errgroup.Group
		mu   sync.Mutex
		seen = map[netip.Addr]string{}
	)
	for i := range 20 {
		g.Go(func() error {
			id := fmt.Sprintf("c%d", i)
			ns, err := n.Add(t.Context(), id)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if other, dup := seen[ns.Addrs[0]]; dup {
				return fmt.Errorf("%s and %s both have %s", id, other, ns.Addrs[0])
			}
			seen[ns.Addrs[0]] = id
			return nil
		})
	}
	// Beside them, what must not disturb them.
	g.Go(func() error { return n.Reconcile(t.Context(), nil) })
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		g.Go(func() error { return n.Remove(t.Context(), fmt.Sprintf("c%d", i)) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	checkNothingHeld(t, n)
}

// TestAddAndRemoveOfOneID lets them race: whatever wins, nothing is left.
func TestAddAndRemoveOfOneID(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	var g errgroup.Group
	for range 4 {
		g.Go(func() error {
			_, err := n.Add(t.Context(), "ca")
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
	mustRemove(t, n, "ca")
	checkNothingHeld(t, n)
}

func TestAddUndoesEachStep(t *testing.T) {
	boom := errors.New("boom")
	for _, step := range []string{"add", "added"} {
		t.Run(step, func(t *testing.T) {
			n := mustOpen(t, testOptions(t))
			n.opts.failpoint = func(s string) error {
				if s == step {
					return boom
				}
				return nil
			}
			if _, err := n.Add(t.Context(), "ca"); !errors.Is(err, boom) {
				t.Fatalf("add: %v", err)
			}
			checkNothingHeld(t, n)
		})
	}
}

func TestAddCanceled(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	ctx, cancel := context.WithCancel(t.Context())
	n.opts.failpoint = func(string) error { cancel(); return nil }
	for range 2 { // while it runs, and before
		if _, err := n.Add(ctx, "ca"); !errors.Is(err, context.Canceled) {
			t.Fatalf("add: %v", err)
		}
		checkNothingHeld(t, n)
	}
}

func TestCrashDuringAdd(t *testing.T) {
	for _, step := range []string{"add", "added"} {
		t.Run(step, func(t *testing.T) {
			opts := testOptions(t)
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestCrashChild$")
			cmd.Env = append(os.Environ(), "CRASH_STEP="+step, "CRASH_STATE="+opts.StateDir)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child: %v\n%s", err, out)
			}
			n := mustOpen(t, opts)
			if ids, err := n.Namespaces(t.Context()); err != nil || !slices.Equal(ids, []string{"ca"}) {
				t.Errorf("namespaces after the crash: %v, %v", ids, err)
			}
			mustRemove(t, n, "ca")
			checkNothingHeld(t, n)
			mustAdd(t, n, "ca")
		})
	}
}

// TestCrashChild is the process that TestCrashDuringAdd kills.
func TestCrashChild(t *testing.T) {
	if os.Getenv("CRASH_STEP") == "" {
		t.Skip("only runs as the child of TestCrashDuringAdd")
	}
	n, err := Open(t.Context(), Options{
		StateDir: os.Getenv("CRASH_STATE"), BinDirs: []string{pluginDir(t)},
		failpoint: func(step string) error {
			if step == os.Getenv("CRASH_STEP") {
				return syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Add(t.Context(), "ca")
	t.Fatalf("survived: %v", err)
}

func TestSubnetExhausted(t *testing.T) {
	opts := testOptions(t)
	opts.Subnet = subnet("10.99.0.0/29")
	n := mustOpen(t, opts)
	for i := range 5 {
		mustAdd(t, n, fmt.Sprintf("c%d", i))
	}
	_, err := n.Add(t.Context(), "c5")
	if !errdefs.IsResourceExhausted(err) || hint(err) == "" {
		t.Errorf("add: %v, hint %q", err, hint(err))
	}
	for _, part := range []string{"c5", "network ctrsnap", `"bridge"`, "no IP addresses available"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not name %s: %v", part, err)
		}
	}
	if ids, _ := n.Namespaces(t.Context()); len(ids) != 5 {
		t.Errorf("namespaces %v", ids)
	}
	mustRemove(t, n, "c2")
	mustAdd(t, n, "c5")
}

func TestMissingPlugin(t *testing.T) {
	opts := testOptions(t)
	good := opts.BinDirs[0]
	opts.BinDirs = []string{t.TempDir()}
	_, err := Open(t.Context(), opts)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(hint(err), opts.BinDirs[0]) {
		t.Errorf("open: %v, hint %q", err, hint(err))
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
	_, err = n.Add(t.Context(), "ca")
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(hint(err), opts.BinDirs[0]) {
		t.Errorf("add: %v, hint %q", err, hint(err))
	}
	checkNothingHeld(t, n)
}

func TestReconcile(t *testing.T) {
	n := mustOpen(t, testOptions(t))
	live := mustAdd(t, n, "clive")
	for _, id := range []string{"cgone", "ckept"} {
		mustAdd(t, n, id)
		if err := deleteNS(n.dir("netns", id)); err != nil {
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
	if err := dial(serve(t, live)); err != nil {
		t.Errorf("the living one was hurt: %v", err)
	}
	if err := n.Reconcile(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if ids, _ := n.recorded(); !slices.Equal(ids, []string{"clive"}) {
		t.Errorf("records %v", ids)
	}
}

func TestTeardown(t *testing.T) {
	opts := testOptions(t)
	n := mustOpen(t, opts)
	mustAdd(t, n, "ca")
	if err := n.Teardown(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("teardown in use: %v", err)
	}
	mustRemove(t, n, "ca")
	for range 2 {
		if err := n.Teardown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	checkLeaks(t, opts)
	if left, _ := os.ReadDir(opts.StateDir); len(left) > 0 {
		t.Errorf("state left: %v", left)
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
	ns := mustAdd(t, n, "ca")
	if len(ns.Addrs) != 1 || !subnet("10.98.0.0/24").Contains(ns.Addrs[0]) {
		t.Errorf("addresses %v", ns.Addrs)
	}
	if ids, _ := n.recorded(); !slices.Equal(ids, []string{"ca"}) {
		t.Errorf("host-local keeps its records elsewhere; here are %v", ids)
	}
	mustRemove(t, n, "ca")
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
		if _, err := Open(t.Context(), opts); !errdefs.IsInvalidArgument(err) || hint(err) == "" {
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
	if _, err := n.Add(t.Context(), "ca"); err == nil || !strings.Contains(err.Error(), "network mine") || !strings.Contains(err.Error(), "9999") {
		t.Errorf("add: %v", err)
	}
}

// BenchmarkAddRemove reports the medians of both in milliseconds.
func BenchmarkAddRemove(b *testing.B) {
	n := mustOpen(b, testOptions(b))
	var add, remove []time.Duration
	for b.Loop() {
		t0 := time.Now()
		mustAdd(b, n, "ca")
		t1 := time.Now()
		mustRemove(b, n, "ca")
		add, remove = append(add, t1.Sub(t0)), append(remove, time.Since(t1))
	}
	b.ReportMetric(median(add), "add-p50-ms")
	b.ReportMetric(median(remove), "remove-p50-ms")
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}
