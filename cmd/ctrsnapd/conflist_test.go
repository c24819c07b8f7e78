package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// conflist writes the configuration of a network with a bridge of its own,
// which the end of the test deletes. It changes a setting of the host: tests with it are not parallel to others.
func conflist(t *testing.T, dir, name, bridge, subnet string) string {
	t.Helper()
	// The plugin's gateway option lets this host forward.
	const forward = "/proc/sys/net/ipv4/ip_forward"
	before := mustRead(t, forward)
	t.Cleanup(func() { _ = os.WriteFile(forward, before, 0o644) })
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", bridge).Run() })
	file := filepath.Join(dir, name+".conflist")
	doc := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [{"type": "bridge", "bridge": %q, "isGateway": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]]}}]}`, name, bridge, subnet)
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestConflist attaches clones to a CNI network of the user's.
func TestConflist(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	file := conflist(t, t.TempDir(), "own", "cst-own0", "10.97.31.0/24")
	d := newDaemon(t, fmt.Sprintf("conflist = %q\nahead = 2\n", file))
	d.buildShop() // on that network
	for range 3 {
		c := cloneJSON(t, d, "shop")
		if !strings.HasPrefix(c.Host, "10.97.31.") {
			t.Errorf("clone has address %s, want one of 10.97.31.0/24", c.Host)
		}
		if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("got %s rows", got)
		}
	}
	if r := d.try(nil, "doctor"); !strings.Contains(r.stdout, "CNI network own") {
		t.Errorf("doctor says\n%s%s", r.stdout, r.stderr)
	}
}

// TestNetworksByName attaches clones to networks that they name, beside the
// default one, and knows them after a crash.
func TestNetworksByName(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	conflist(t, dir, "one", "cst-own1", "10.97.32.0/24")
	two := conflist(t, dir, "two", "cst-own2", "10.97.33.0/24")
	d := newShop(t, fmt.Sprintf("conf_dirs = [%q]\n", dir))
	c := cloneJSON(t, d, "shop", "--network", "two,one", "--name", "both")
	if !strings.HasPrefix(c.Host, "10.97.33.") || strings.Join(c.Networks, " ") != "two one" {
		t.Errorf("clone has address %s on %v", c.Host, c.Networks)
	}
	if other := cloneJSON(t, d, "shop"); strings.HasPrefix(other.Host, "10.97.3") {
		t.Errorf("clone of the default network has address %s", other.Host)
	}
	if r := d.try(nil, "clone", "shop", "--network", "nonesuch"); r.code != 3 || !strings.Contains(r.stderr, "nonesuch") || !strings.Contains(r.stderr, "one, two") {
		t.Errorf("unknown network: exit code %d\n%s", r.code, r.stderr)
	}
	// Its network is gone when it is removed.
	if err := os.Remove(two); err != nil {
		t.Fatal(err)
	}
	d.stop(syscall.SIGKILL)
	d.start()
	if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("got %s rows", got)
	}
	d.run("rm", "both")
}
