package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestConflist attaches clones to a CNI network of the user's.
func TestConflist(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	// The plugin's gateway option lets this host forward.
	const forward = "/proc/sys/net/ipv4/ip_forward"
	before := mustRead(t, forward)
	t.Cleanup(func() { _ = os.WriteFile(forward, before, 0o644) })
	const bridge, subnet = "cst-own0", "10.97.31.0/24"
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", bridge).Run() })

	file := filepath.Join(t.TempDir(), "own.conflist")
	conflist := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "bridge", "bridge": %q, "isGateway": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]]}}]}`, bridge, subnet)
	if err := os.WriteFile(file, []byte(conflist), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, fmt.Sprintf("conflist = %q\nahead = 2\n", file))
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	for range 3 {
		c := cloneJSON(t, d, "shop")
		if !strings.HasPrefix(c.Host, "10.97.31.") {
			t.Errorf("clone has address %s, want one of %s", c.Host, subnet)
		}
		if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("got %s rows", got)
		}
	}
	if r := d.try(nil, "doctor"); !strings.Contains(r.stdout, "CNI network own") {
		t.Errorf("doctor says\n%s%s", r.stdout, r.stderr)
	}
}
