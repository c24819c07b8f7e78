package cni

import (
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func TestMain(m *testing.M) { testsuite.Main(m) }

// openBridge opens a network of the bridge and host-local plugins.
func openBridge(plugins string) testsuite.Open {
	return func(ctx context.Context, c testsuite.Config) (testsuite.Network, func() error, error) {
		subnet := c.Subnet
		if !subnet.IsValid() {
			subnet = netip.MustParsePrefix("10.98.0.0/24")
		}
		file, err := os.CreateTemp("", "*.conflist")
		if err != nil {
			return nil, nil, err
		}
		defer os.Remove(file.Name())
		defer file.Close()
		if _, err := file.WriteString(bridgeConflist("suite", subnet.String(), "")); err != nil {
			return nil, nil, err
		}
		conf, err := Read(file.Name(), false)
		if err != nil {
			return nil, nil, err
		}
		n, err := Open(ctx, Options{StateDir: c.StateDir, BinDirs: []string{plugins}, Networks: []Conf{conf}, Log: c.Log, Failpoint: c.Failpoint})
		if err != nil {
			return nil, nil, err
		}
		return n, func() error { return nil }, nil
	}
}

func TestSuite(t *testing.T) { testsuite.RunAny(t, openBridge(pluginDir(t))) }

func TestCrashChild(t *testing.T) { testsuite.CrashChild(t, openBridge(pluginDir(t))) }

// bridgeConflist is a configuration as a user would write it, with a bridge of
// its own for each range; more goes into the plugin.
func bridgeConflist(name, subnet, more string) string {
	return fmt.Sprintf(`{"cniVersion": "1.1.0", "name": %q, "plugins": [{"type": "bridge", "bridge": "br%x", "isGateway": true,
		%s "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]]}}]}`, name, crc32.ChecksumIEEE([]byte(subnet)), more, subnet)
}

// write writes a configuration into a directory.
func write(t testing.TB, dir, name, doc string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// conf reads a configuration from its text.
func conf(t testing.TB, doc string) Conf {
	t.Helper()
	c, err := Read(write(t, t.TempDir(), "test.conflist", doc), false)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testOptions returns options with a state of their own and looks for leaks at
// the end of the test.
func testOptions(t testing.TB, docs ...string) Options {
	t.Helper()
	opts := Options{StateDir: testsuite.Setup(t).StateDir, BinDirs: []string{pluginDir(t)}}
	for _, doc := range docs {
		opts.Networks = append(opts.Networks, conf(t, doc))
	}
	return opts
}

func pluginDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(cmp.Or(os.Getenv("CTRSNAP_TEST_BIN"), "../../bin"))
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
