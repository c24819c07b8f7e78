package manager

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestNamesForOthers has clones of a request share a lease that others have not, also after a restart.
func TestNamesForOthers(t *testing.T) {
	w := newWorld(t)
	first, _ := w.manager(t)
	before := first.NamesVersion()
	create(t, first, api.CloneRequest{Golden: "shop", Count: 2, Name: "job"})
	alone := create(t, first, api.CloneRequest{Golden: "shop"}).Clones[0]
	if first.NamesVersion() == before {
		t.Error("nothing has changed")
	}
	check := func(m *Manager) {
		t.Helper()
		got := map[string]dns.Clone{}
		leases := map[string]int{}
		for _, c := range m.Names() {
			if c.ID == "" || len(c.Addrs) == 0 {
				t.Errorf("%+v", c)
			}
			leases[c.Lease]++
			got[c.Name] = dns.Clone{Name: c.Name, Golden: c.Golden, Service: c.Service, Port: c.Port, Local: c.Local}
		}
		want := map[string]dns.Clone{}
		for _, name := range []string{"job-1", "job-2", ""} {
			want[name] = dns.Clone{Name: name, Golden: "shop", Service: "fake", Port: 1, Local: true}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		if leases[""] != 1 || len(leases) != 2 {
			t.Errorf("leases %v", leases)
		}
	}
	check(first)
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, _ := w.manager(t)
	check(m)
	before = m.NamesVersion()
	if err := m.Remove(t.Context(), access.Daemon, alone.ID, false); err != nil {
		t.Fatal(err)
	}
	if n := len(m.Names()); n != 2 || m.NamesVersion() == before {
		t.Errorf("%d names, version %d after %d", n, m.NamesVersion(), before)
	}
	drain(t, m)
}

// TestResolvConf is asked for those on the default network only.
func TestResolvConf(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	file := w.dir + "/resolv.conf"
	opts.ResolvConf = func(_ context.Context, addr netip.Addr) string {
		if addr != netip.MustParseAddr("10.0.0.7") {
			t.Errorf("asked for %s", addr)
		}
		return file
	}
	if err := os.MkdirAll(opts.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(opts.LogDir, 0o700); err != nil {
		t.Fatal(err)
	}
	m := New(opts)
	defer m.Close(context.Background())
	mounted := func(req api.CloneRequest) (n int) {
		req.Golden = "shop"
		c := create(t, m, req).Clones[0]
		for _, mount := range w.task(c.ID).c.Mounts {
			if mount.Source == file && mount.Destination == "/etc/resolv.conf" {
				n++
			}
		}
		return n
	}
	if n := mounted(api.CloneRequest{}); n != 1 {
		t.Errorf("%d mounts", n)
	}
	if n := mounted(api.CloneRequest{Networks: []string{"lab"}}); n != 0 {
		t.Errorf("%d mounts on another network", n)
	}
	file = ""
	if n := mounted(api.CloneRequest{}); n != 0 {
		t.Errorf("%d mounts where nobody answers", n)
	}
}
