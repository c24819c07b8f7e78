package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in network and mount namespaces of their own, so that
// the host's network is not touched and nothing of theirs outlives them.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_TEST_CHILD") != "" || os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "CNI_TEST_CHILD=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, // makes mounts private, too
		Pdeathsig:    syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// testOptions returns options with a state of their own and looks for leaks at
// the end of the test.
func testOptions(t testing.TB) Options {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	opts := Options{StateDir: t.TempDir(), BinDirs: []string{pluginDir(t)}}
	t.Cleanup(func() { checkLeaks(t, opts) })
	return opts
}

func pluginDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("CTRSNAP_TEST_BIN")
	if dir == "" {
		dir = "../../bin"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"bridge", "host-local"} {
		if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
			t.Fatalf("needs the CNI plugins in CTRSNAP_TEST_BIN: %v", err)
		}
	}
	return dir
}

// mustOpen opens a network that is torn down, its namespaces first, at the end.
func mustOpen(t testing.TB, opts Options) *Network {
	t.Helper()
	n, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.opts.failpoint = nil
		ctx := contextOf(t)
		ids, _ := n.Namespaces(ctx)
		for _, id := range ids {
			if err := n.Remove(ctx, id); err != nil {
				t.Error(err)
			}
		}
		checkNothingHeld(t, n)
		if err := n.Teardown(ctx); err != nil {
			t.Error(err)
		}
	})
	return n
}

// checkNothingHeld fails if the network holds a namespace, an address, a record
// or a link.
func checkNothingHeld(t testing.TB, n *Network) {
	t.Helper()
	if ids, err := n.Namespaces(contextOf(t)); len(ids) > 0 || err != nil {
		t.Errorf("namespaces left: %v, %v", ids, err)
	}
	if ids, err := n.recorded(); len(ids) > 0 || err != nil {
		t.Errorf("records left: %v, %v", ids, err)
	}
	if n.bridge == nil {
		return
	}
	br, err := netlink.LinkByName(n.bridge.name)
	if err != nil {
		return
	}
	// The kernel takes a link down with its namespace, a little later.
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); ; <-tick.C {
		ports, err := portsOf(br)
		if ports == 0 && err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d links left at %s, %v", ports, n.bridge.name, err)
			return
		}
	}
}

func checkLeaks(t testing.TB, opts Options) {
	t.Helper()
	links, err := whole(netlink.LinkList)
	if err != nil {
		t.Error(err)
	}
	for _, l := range links {
		if l.Attrs().Alias == ownerAlias(opts.StateDir) {
			t.Errorf("bridge left: %s", l.Attrs().Name)
			_ = netlink.LinkDel(l)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(opts.StateDir, "netns", "*")); len(left) > 0 {
		t.Errorf("namespaces left: %v", left)
	}
}

func subnet(s string) netip.Prefix { return netip.MustParsePrefix(s) }
