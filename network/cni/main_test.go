package cni

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

// openDefault opens the default network.
func openDefault(plugins string) testsuite.Open {
	return func(ctx context.Context, c testsuite.Config) (testsuite.Network, func() error, error) {
		n, err := Open(ctx, Options{
			StateDir: c.StateDir, BinDirs: []string{plugins}, Bridge: c.Bridge, Subnet: c.Subnet, Log: c.Log, failpoint: c.Failpoint,
		})
		return n, func() error { return nil }, err
	}
}

func TestSuite(t *testing.T) { testsuite.Run(t, openDefault(pluginDir(t))) }

func TestCrashChild(t *testing.T) { testsuite.CrashChild(t, openDefault(pluginDir(t))) }

// testOptions returns options with a state of their own and looks for leaks at
// the end of the test.
func testOptions(t testing.TB) Options {
	t.Helper()
	return Options{StateDir: testsuite.Setup(t).StateDir, BinDirs: []string{pluginDir(t)}}
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
		testsuite.RemoveAll(t, n)
		checkNothingHeld(t, n)
		testsuite.Teardown(t, n)
	})
	return n
}

// checkNothingHeld fails if the network holds a namespace or a record.
func checkNothingHeld(t testing.TB, n *Network) {
	t.Helper()
	if ids, err := n.Namespaces(context.WithoutCancel(t.Context())); len(ids) > 0 || err != nil {
		t.Errorf("namespaces left: %v, %v", ids, err)
	}
	if ids, err := n.recorded(); len(ids) > 0 || err != nil {
		t.Errorf("records left: %v, %v", ids, err)
	}
}

func subnet(s string) netip.Prefix { return netip.MustParsePrefix(s) }
