package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// published returns where a clone is published, and fails if that is not told everywhere.
func published(t *testing.T, d *daemon, c api.Clone) (at []netip.AddrPort) {
	t.Helper()
	for _, s := range c.Published {
		a, err := netip.ParseAddrPort(s)
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, a)
	}
	if len(at) == 0 {
		t.Fatalf("it is not told where %s is published", c.ID)
	}
	if got := d.run("inspect", c.ID, "--format", "{{index .published 0}}"); got != c.Published[0] {
		t.Errorf("inspect says %s, want %s", got, c.Published[0])
	}
	if got := d.run("ls"); !strings.Contains(got, c.Published[0]) {
		t.Errorf("ls says nothing of %s\n%s", c.Published[0], got)
	}
	u, err := url.Parse(c.URLs["published"])
	if err != nil || u.Port() != fmt.Sprint(at[0].Port()) || c.Env["published"]["PGPORT"] != u.Port() {
		t.Errorf("the URL is %s, PGPORT %s, %v", u.Redacted(), c.Env["published"]["PGPORT"], err)
	}
	return at
}

// TestPublish reaches clones by ports of the host, from there and from another
// one, and over a crash of the daemon.
func TestPublish(t *testing.T) {
	t.Parallel()
	d, host, beyond := newEgressHost(t, "[pool]\nauto = false\n")
	other := strings.TrimSuffix(host, "host") + "beyond"
	d.run("pool", "set", "shop", "--size", "1")
	waitFor(t, "the pool to be full", func() bool { return pools(t, d)["shop:1"].Ready == 1 })
	d.run("pool", "set", "shop", "--size", "0")
	pooled := cloneJSON(t, d, "shop", "--name", "pr", "--publish", "0", "--password")
	cold := cloneJSON(t, d, "shop", "--publish", "127.0.0.1:0", "--publish", "[::1]:0")
	check := func() {
		t.Helper()
		for _, tt := range []struct {
			from, addr string
			c          api.Clone
			i          int
		}{
			{host, "127.0.0.1", pooled, 0}, {host, "::1", pooled, 1}, {host, "192.0.2.1", pooled, 0}, {other, "192.0.2.1", pooled, 0},
			{host, "127.0.0.1", cold, 0}, {host, "::1", cold, 1},
		} {
			u, err := url.Parse(tt.c.URLs["published"])
			if err != nil {
				t.Fatal(err)
			}
			u.Host = netip.AddrPortFrom(netip.MustParseAddr(tt.addr), published(t, d, tt.c)[tt.i].Port()).String()
			if got, err := queryIn(tt.from, u.String(), netip.MustParseAddr(tt.addr)); got != "1000" {
				t.Errorf("%s asks %s: %q, %v", tt.from, u.Host, got, err)
			}
		}
	}
	check()
	if c, err := dialIn(other, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), published(t, d, cold)[0].Port()).String(), 20*time.Second); err == nil {
		t.Error("another host reaches what is published at 127.0.0.1")
		c.Close()
	}

	// A connection of before outlives the daemon.
	cfg, err := pgx.ParseConfig(pooled.URLs["published"])
	if err != nil {
		t.Fatal(err)
	}
	cfg.DialFunc = func(_ context.Context, _, addr string) (net.Conn, error) { return dialIn(host, addr, 20*time.Second) }
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	d.restart(syscall.SIGKILL)
	check()
	var n int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM users").Scan(&n); err != nil || n != 1000 {
		t.Errorf("after a restart of the daemon: %d, %v", n, err)
	}

	// Ports that are taken, by a clone and by somebody else.
	port := fmt.Sprint(published(t, d, pooled)[0].Port())
	wantError(t, d.try(nil, "clone", "shop", "--publish", port), 8, port, pooled.ID)
	var l net.Listener
	if err := inside(host, func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	wantError(t, d.try(nil, "clone", "shop", "--publish", l.Addr().String()), 8, l.Addr().String(), fmt.Sprintf("(pid %d)", os.Getpid()))
	wantError(t, d.try(nil, "clone", "shop", "--publish", beyond), 2, "192.0.2.2")
	wantError(t, d.try(nil, "clone", "shop", "--publish", "no"), 2, "[IP:]PORT")
	wantError(t, d.try(nil, "clone", "shop", "--publish", "5433", "--count", "2"), 2, "5433")
	wantError(t, d.try(nil, "clone", "shop", "--publish", "5433", "--network", "none"), 2, "no address")

	// A successor has the port, and one that comes after it is gone.
	next := cloneJSON(t, d, "shop", "--name", "pr", "--if-exists", "reset", "--publish", port)
	if next.ID == pooled.ID || fmt.Sprint(published(t, d, next)[0].Port()) != port {
		t.Errorf("its successor is at %v", next.Published)
	}
	d.run("rm", "pr")
	var two struct{ Clones []api.Clone }
	if err := json.Unmarshal([]byte(d.run("clone", "shop", "--count", "2", "--publish", "0", "-o", "json")), &two); err != nil {
		t.Fatal(err)
	}
	if a, b := published(t, d, two.Clones[0])[0].Port(), published(t, d, two.Clones[1])[0].Port(); a == b {
		t.Errorf("two clones are at port %d", a)
	}
	if got := d.run("clone", "shop", "--publish", port, "--via", "published"); !strings.Contains(got, "@127.0.0.1:"+port+"/") {
		t.Errorf("the URL is %s", got)
	}
}
