package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestNetworkIsolationByConflist has clones on a bridge of CNI's reach their own
// lease and nobody else, before and after a crash, over both families.
func TestNetworkIsolationByConflist(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "own.conflist")
	doc := `{"cniVersion": "1.0.0", "name": "own", "plugins": [{"type": "bridge", "bridge": "own0", "isDefaultGateway": true,
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.97.34.0/24"}], [{"subnet": "fd00:97:34::/64"}]]}}]}`
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	d, host, _ := newEgressHost(t, fmt.Sprintf("conflist = %q\nahead = 2\n[pool]\nauto = false\n", file))
	beyond := strings.TrimSuffix(host, "host") + "beyond"
	for _, args := range [][]string{
		{"-n", filepath.Base(beyond), "address", "add", "198.51.100.50/32", "dev", "lo"},
		{"-n", filepath.Base(beyond), "route", "add", "10.97.34.0/24", "via", "192.0.2.1"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	outside := serveIn(t, beyond, "198.51.100.50:0")
	services := []string{serveIn(t, host, "192.0.2.1:0"), serveIn(t, host, "0.0.0.0:0")}
	var one struct{ Clones []api.Clone }
	if err := json.Unmarshal([]byte(d.run("clone", "shop", "--count", "2", "-o", "json")), &one); err != nil {
		t.Fatal(err)
	}
	two, open := cloneJSON(t, d, "shop"), cloneJSON(t, d, "shop", "--egress")
	_, port, _ := net.SplitHostPort(services[1])
	services[1] = net.JoinHostPort("10.97.34.1", port)
	// Until the kernel is sure that nobody else has the bridge's address, the host asks from a link-local one, which clones
	// do not answer: RFC 4862, 5.4.
	waitFor(t, "the bridge to have its address", func() bool {
		out, err := exec.Command("ip", "-n", filepath.Base(host), "-6", "address", "show", "dev", "own0", "tentative").CombinedOutput()
		if err != nil {
			t.Fatalf("ip: %v\n%s", err, out)
		}
		return len(out) == 0
	})
	check := func() {
		t.Helper()
		for _, c := range one.Clones {
			for _, a := range addrsOf(t, c) {
				for who, path := range map[string]string{"the host": host, "its lease": netnsOf(one.Clones[0])} {
					if got, err := queryIn(path, c.URL, a); got != "1000" {
						t.Errorf("%s asks %s: %q, %v", who, a, got, err)
					}
				}
				at := netip.AddrPortFrom(a, uint16(c.Port)).String()
				mustNotDial(t, "another lease", two, at)
				mustNotDial(t, "another lease, with egress", open, at)
			}
		}
		for _, s := range services {
			mustNotDial(t, "a clone, of the host,", two, s)
			mustNotDial(t, "a clone with egress, of the host,", open, s)
		}
		mustNotDial(t, "a clone without egress", two, outside)
		c, err := dialIn(netnsOf(open), outside, 20*time.Second)
		if err != nil {
			t.Fatalf("a clone with egress: %v", err)
		}
		_ = c.Close()
	}
	check()
	d.restart(syscall.SIGKILL)
	check()
	// An address that comes to another lease is not that of the one before.
	d.run("rm", one.Clones[1].ID)
	next := cloneJSON(t, d, "shop")
	mustNotDial(t, "the lease of before", one.Clones[0], fmt.Sprintf("%s:%d", next.Host, next.Port))
}

// serveIn accepts connections in a network namespace until the end of the test.
func serveIn(t *testing.T, path, addr string) string {
	t.Helper()
	var l net.Listener
	if err := inside(path, func() (err error) { l, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			_ = c.Close()
		}
	}()
	return l.Addr().String()
}
