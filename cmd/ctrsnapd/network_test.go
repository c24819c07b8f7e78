package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// newEgressHost starts a daemon with shop:1 on a host of its own, a network namespace, and
// makes a namespace beyond that host, which answers at the address returned.
func newEgressHost(t *testing.T, configuration string) (d *daemon, host, beyond string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l := &lan{t: t, prefix: newPrefix(), dir: t.TempDir()}
	for _, name := range []string{"host", "beyond"} {
		l.add(name)
	}
	l.ip("-n", l.ns("host"), "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", l.ns("beyond"))
	for _, link := range [][3]string{{"host", "up0", "192.0.2.1/24"}, {"beyond", "eth0", "192.0.2.2/24"}} {
		l.ip("-n", l.ns(link[0]), "link", "set", "lo", "up")
		l.ip("-n", l.ns(link[0]), "address", "add", link[2], "dev", link[1])
		l.ip("-n", l.ns(link[0]), "link", "set", link[1], "up")
	}
	l.ip("-n", l.ns("host"), "route", "add", "default", "via", "192.0.2.2")
	host = "/run/netns/" + l.ns("host")
	var listener net.Listener
	err := inside("/run/netns/"+l.ns("beyond"), func() (err error) {
		listener, err = net.Listen("tcp", "192.0.2.2:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, c.RemoteAddr().String())
			_ = c.Close()
		}
	}()
	return newShopIn(t, l.enter("host"), configuration), host, listener.Addr().String()
}

// inside runs fn in a network namespace.
func inside(path string, fn func() error) error {
	return netns.OnNewThread(func() error {
		f, err := os.Open(path)
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

// dialIn connects from a network namespace.
func dialIn(path, addr string, wait time.Duration) (c net.Conn, err error) {
	err = inside(path, func() error {
		c, err = net.DialTimeout("tcp", addr, wait)
		return err
	})
	return c, err
}

func mustNotDial(t *testing.T, who string, from api.Clone, addr string) {
	t.Helper()
	if c, err := dialIn(netnsOf(from), addr, 500*time.Millisecond); err == nil {
		t.Errorf("%s reaches %s", who, addr)
		_ = c.Close()
	}
}

// queryIn asks a clone from a network namespace.
func queryIn(path, url string, addr netip.Addr) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		return dialIn(path, netip.AddrPortFrom(addr, cfg.Port).String(), 10*time.Second)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	var got string
	return got, conn.QueryRow(ctx, "SELECT count(*)::text FROM users").Scan(&got)
}

func netnsOf(c api.Clone) string { return fmt.Sprintf("/proc/%d/ns/net", c.PID) }

// addrsOf returns a clone's addresses of both families, as its server sees them.
func addrsOf(t *testing.T, c api.Clone) (addrs []netip.Addr) {
	t.Helper()
	err := inside(netnsOf(c), func() error {
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			if p := netip.MustParsePrefix(a.String()); !p.Addr().IsLoopback() {
				addrs = append(addrs, p.Addr())
			}
		}
		return err
	})
	if err != nil || len(addrs) == 0 || addrs[0].String() != c.Host {
		t.Fatalf("clone at %s has addresses %v, %v", c.Host, addrs, err)
	}
	return addrs
}

// TestNetworkLeases has clones of two leases ask each other's servers and what is beyond
// their host, made ahead and not, before and after a crash of the daemon.
func TestNetworkLeases(t *testing.T) {
	t.Parallel()
	d, host, beyond := newEgressHost(t, "[pool]\nauto = false\n")
	d.run("pool", "set", "shop", "--size", "2")
	waitFor(t, "the pool to be full", func() bool { return pools(t, d)["shop:1"].Ready == 2 })
	var one struct{ Clones []api.Clone }
	if err := json.Unmarshal([]byte(d.run("clone", "shop", "--count", "3", "-o", "json")), &one); err != nil {
		t.Fatal(err)
	}
	two := cloneJSON(t, d, "shop", "--egress")
	if !two.Egress {
		t.Errorf("egress is not told: %+v", two)
	}
	check := func() {
		t.Helper()
		for _, c := range one.Clones {
			for _, a := range addrsOf(t, c) {
				if got, err := queryIn(host, c.URL, a); got != "1000" {
					t.Errorf("the host asks %s: %q, %v", a, got, err)
				}
				if got, err := queryIn(netnsOf(one.Clones[0]), c.URL, a); got != "1000" {
					t.Errorf("its lease asks %s: %q, %v", a, got, err)
				}
				mustNotDial(t, "another lease", two, netip.AddrPortFrom(a, uint16(c.Port)).String())
			}
		}
		for _, a := range addrsOf(t, two) {
			mustNotDial(t, "another lease", one.Clones[0], netip.AddrPortFrom(a, uint16(two.Port)).String())
		}
		mustNotDial(t, "a clone without egress", one.Clones[0], beyond)
		c, err := dialIn(netnsOf(two), beyond, 20*time.Second)
		if err != nil {
			t.Fatalf("a clone with egress: %v", err)
		}
		if from, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(from), "192.0.2.1:") {
			t.Errorf("seen as %s, %v", from, err)
		}
		_ = c.Close()
	}
	check()
	d.restart(syscall.SIGKILL)
	check()
}

// TestNetworkAddress asks for addresses that are free, taken and somebody else's.
func TestNetworkAddress(t *testing.T) {
	t.Parallel()
	d, host, _ := newEgressHost(t, "subnet = \"10.96.0.0/22\"\n[pool]\nauto = false\n[clone]\negress = true\n")
	c := cloneJSON(t, d, "shop", "--ip", "10.96.1.77")
	if c.Host != "10.96.1.77" || !c.Egress {
		t.Errorf("clone at %s, egress %t", c.Host, c.Egress)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			d.restart(syscall.SIGKILL)
		}
		if got, err := queryIn(host, c.URL, netip.MustParseAddr("10.96.1.77")); got != "1000" {
			t.Errorf("the host asks: %q, %v", got, err)
		}
		wantError(t, d.try(nil, "clone", "shop", "--ip", "10.96.1.77"), 8, "10.96.1.77", "taken")
		wantError(t, d.try(nil, "clone", "shop", "--ip", "10.96.0.1"), 2, "10.96.0.1")
		wantError(t, d.try(nil, "clone", "shop", "--ip", "192.0.2.9"), 2, "192.0.2.9", "10.96.0.0/22")
		wantError(t, d.try(nil, "clone", "shop", "--ip", "near"), 2, "near")
		if n := len(strings.Fields(d.run("ls", "-q"))); n != 1 {
			t.Errorf("%d clones", n)
		}
	}
	d.run("rm", c.ID)
	if again := cloneJSON(t, d, "shop", "--ip", "10.96.1.77"); again.Host != "10.96.1.77" {
		t.Errorf("clone at %s", again.Host)
	}
	if r := d.try(nil, "doctor"); !strings.Contains(r.stdout, "10.96.0.0/22") || strings.Contains(r.stdout, "firewall") {
		t.Errorf("doctor says\n%s%s", r.stdout, r.stderr)
	}
}
