package main_test

import (
	"encoding/json"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// resolve asks a server from a network namespace, and returns addresses and
// names, or the code.
func resolve(t *testing.T, path string, server netip.Addr, name string, of uint16) (all []string) {
	t.Helper()
	c := &dns.Client{Timeout: 20 * time.Second}
	var m *dns.Msg
	err := inside(path, func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(server, 53).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		m, _, err = c.ExchangeWithConn(new(dns.Msg).SetQuestion(name, of), &dns.Conn{Conn: conn})
		return err
	})
	if err != nil {
		t.Errorf("ask for %s: %v", name, err)
		return nil
	}
	for _, rr := range m.Answer {
		all = append(all, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	if len(all) == 0 {
		return []string{dns.RcodeToString[m.Rcode]}
	}
	return all
}

// gatewayOf is the host's address on the bridge of a clone in 10.96.0.0/16.
func gatewayOf(c api.Clone) netip.Addr {
	return netip.PrefixFrom(netip.MustParseAddr(c.Host), 22).Masked().Addr().Next()
}

// TestNames has the clones of a job find each other and nobody else, those made
// ahead, those on a bridge that came later, and all after a crash.
func TestNames(t *testing.T) {
	t.Parallel()
	d, host, _ := newEgressHost(t, "subnet = \"10.96.0.0/21\"\n[pool]\nauto = false\n")
	d.run("pool", "set", "shop", "--size", "1")
	waitFor(t, "the pool to be full", func() bool { return pools(t, d)["shop:1"].Ready == 1 })
	var job struct{ Clones []api.Clone }
	if err := json.Unmarshal([]byte(d.run("clone", "shop", "--count", "2", "--name", "job", "-o", "json")), &job); err != nil {
		t.Fatal(err)
	}
	one, two := job.Clones[0], job.Clones[1]
	lease := strings.TrimPrefix(one.DNSNames[1], "shop.")
	if one.DNSName != "job-1.ctrsnap.internal" || one.DNSNames[0] != one.DNSName || two.DNSNames[1] != "shop."+lease {
		t.Errorf("its names are %s, %v and %v", one.DNSName, one.DNSNames, two.DNSNames)
	}
	far := cloneJSON(t, d, "shop", "--name", "far", "--ip", "10.96.5.7")
	if far.Host != "10.96.5.7" {
		t.Errorf("a clone was made ahead at %s", far.Host)
	}
	check := func() {
		t.Helper()
		for _, tt := range []struct {
			from api.Clone // zero is the host
			name string
			of   uint16
			want string
		}{
			{one, "job-2.ctrsnap.internal.", dns.TypeA, two.Host},
			{one, "job-2.ctrsnap.internal.", dns.TypeAAAA, addrsOf(t, two)[1].String()},
			{two, "_postgresql._tcp.job-1.ctrsnap.internal.", dns.TypeSRV, "0 0 5432 job-1.ctrsnap.internal."},
			{one, "far.ctrsnap.internal.", dns.TypeA, "NXDOMAIN"},
			{far, "far.ctrsnap.internal.", dns.TypeA, far.Host},
			{far, "job-1.ctrsnap.internal.", dns.TypeA, "NXDOMAIN"},
			{far, "shop." + lease + ".", dns.TypeA, "NXDOMAIN"},
			{far, "example.com.", dns.TypeA, "REFUSED"},
			{api.Clone{}, "far.ctrsnap.internal.", dns.TypeA, far.Host},
			{api.Clone{}, "job-1.ctrsnap.internal.", dns.TypeA, one.Host},
			{api.Clone{}, "7.5.96.10.in-addr.arpa.", dns.TypePTR, "far.ctrsnap.internal."},
		} {
			path, server := host, gatewayOf(one)
			if tt.from.ID != "" {
				path, server = netnsOf(tt.from), gatewayOf(tt.from)
			}
			if got := resolve(t, path, server, tt.name, tt.of); !slices.Equal(got, []string{tt.want}) {
				t.Errorf("%s asks for %s: %v, want %s", tt.from.Name, tt.name, got, tt.want)
			}
		}
		// As a program of the clone's does, by its resolv.conf.
		for _, name := range []string{"job-2", "job-2.ctrsnap.internal", "shop", "shop." + lease} {
			url := strings.Replace(two.URL, two.Host, name, 1)
			if got := d.run("exec", one.ID, "--", "psql", url, "-Atc", "SELECT count(*) FROM users"); got != "1000" {
				t.Errorf("%s: %q", name, got)
			}
		}
	}
	check()
	d.restart(syscall.SIGKILL)
	check()

	// Somebody else has the port: clones are made all the same.
	d.stop(syscall.SIGTERM)
	var other net.PacketConn
	if err := inside(host, func() (err error) { other, err = net.ListenPacket("udp", "0.0.0.0:53"); return err }); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	d.start()
	if got := answerOfANew(t, d, host); got != "1000" {
		t.Errorf("a clone says %q", got)
	}
	if r := d.try(nil, "doctor"); !strings.Contains(r.stdout, "names") || !strings.Contains(r.stdout, "address already in use") {
		t.Errorf("doctor says\n%s%s", r.stdout, r.stderr)
	}
	_ = other.Close()
	if r := d.try(nil, "doctor"); !strings.Contains(r.stdout, "ctrsnap.internal at 10.96.0.1") || strings.Contains(r.stdout, "address already in use") {
		t.Errorf("doctor says\n%s%s", r.stdout, r.stderr)
	}
	check()
}

// answerOfANew makes a clone and asks it from the host.
func answerOfANew(t *testing.T, d *daemon, host string) string {
	t.Helper()
	c := cloneJSON(t, d, "shop")
	got, err := queryIn(host, c.URL, netip.MustParseAddr(c.Host))
	if err != nil {
		t.Error(err)
	}
	return got
}

// TestNetworkNone reaches a clone by its socket, and by nothing else.
func TestNetworkNone(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n[clone]\negress = true\n")
	c := cloneJSON(t, d, "shop", "--network", "none", "--name", "alone")
	if c.Host != "" || c.Port != 0 || c.URLs["tcp"] != "" || c.URL != c.URLs["socket"] || c.Egress {
		t.Errorf("it is at %q, port %d, %v, egress %t", c.Host, c.Port, c.URLs, c.Egress)
	}
	err := inside(netnsOf(c), func() error {
		links, err := net.Interfaces()
		if len(links) != 1 || links[0].Name != "lo" {
			t.Errorf("interfaces %v", links)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			d.restart(syscall.SIGKILL)
		}
		if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("got %s rows", got)
		}
	}
	if got := d.run("run", "--network", "none", "shop", "--", "sh", "-c", `psql -Atc 'SELECT count(*) FROM users'; echo "$PGHOST"`); !strings.HasPrefix(got, "1000\n/") {
		t.Errorf("a job sees %q", got)
	}
	if got := d.run("clone", "shop", "--via", "socket"); query(t, got, "SELECT count(*) FROM users") != "1000" || !strings.Contains(got, "@/") {
		t.Errorf("got %s", got)
	}
	wantError(t, d.try(nil, "run", "--network", "none", "--via", "tcp", "shop", "--", "true"), 125, "tcp", "socket")
	wantError(t, d.try(nil, "clone", "shop", "--network", "none,default"), 2, "none")
	wantError(t, d.try(nil, "clone", "shop", "--network", "none", "--ip", "10.96.0.9"), 2, "none")
	wantError(t, d.try(nil, "clone", "shop", "--network", "none", "--egress"), 2, "egress")
	if r := d.run("net", "ls"); !strings.Contains(r, "none") {
		t.Errorf("net ls says\n%s", r)
	}
}
