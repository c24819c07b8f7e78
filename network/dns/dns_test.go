package dns

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a Directory in memory.
type fake struct {
	mu      sync.Mutex
	clones  []Clone
	version uint64
	asked   int
}

func (f *fake) Names() []Clone {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return slices.Clone(f.clones)
}

func (f *fake) NamesVersion() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.version
}

func (f *fake) reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fake) set(clones ...Clone) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.clones, f.version = clones, f.version+1
}

// The clones of a job (l1), of another (l2), and one that is alone.
var (
	hostAddr = netip.MustParseAddr("127.0.0.1")
	one      = clone("cone", "pr-1", "shop", "l1", "127.0.0.11", "fd00::b")
	two      = clone("ctwo", "", "shop", "l1", "127.0.0.12", "fd00::c")
	other    = clone("cother", "pr-2", "shop", "l2", "127.0.0.13")
	alone    = clone("calone", "", "users", "", "127.0.0.14")
)

func clone(id, name, golden, lease string, addrs ...string) Clone {
	c := Clone{ID: id, Name: name, Golden: golden, Lease: lease, Service: "postgresql", Port: 5432, Local: true}
	for _, a := range addrs {
		c.Addrs = append(c.Addrs, netip.MustParseAddr(a))
	}
	return c
}

// world is a Server on loopback.
type world struct {
	*Server
	t    testing.TB
	dir  *fake
	port uint16
}

func newWorld(t testing.TB, clones ...Clone) *world {
	t.Helper()
	w := &world{t: t, dir: &fake{}}
	w.dir.set(clones...)
	for range 50 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w.port = netip.MustParseAddrPort(l.Addr().String()).Port()
		_ = l.Close()
		w.Server = New(w.dir, Options{Port: w.port, Log: slog.New(slog.DiscardHandler)})
		if err = w.Listen(t.Context(), netip.PrefixFrom(hostAddr, 24)); err == nil {
			break
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(w.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// exchange asks from an address.
func (w *world) exchange(from netip.Addr, network string, q *dns.Msg) *dns.Msg {
	w.t.Helper()
	d := &net.Dialer{Timeout: 20 * time.Second, LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	if network == "tcp" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c := &dns.Client{Net: network, Dialer: d, Timeout: 20 * time.Second}
	m, _, err := c.Exchange(q, netip.AddrPortFrom(hostAddr, w.port).String())
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func query(name string, t uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, t) }

func (w *world) ask(from netip.Addr, name string, t uint16) *dns.Msg {
	w.t.Helper()
	return w.exchange(from, "udp", query(name, t))
}

// said is an answer in short: what it refers to, or the code, "nodata" for none.
func said(m *dns.Msg) (all []string) {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			all = append(all, rr.A.String())
		case *dns.AAAA:
			all = append(all, rr.AAAA.String())
		case *dns.PTR:
			all = append(all, rr.Ptr)
		case *dns.SRV:
			all = append(all, fmt.Sprintf("%s %d", rr.Target, rr.Port))
		default:
			all = append(all, dns.TypeToString[rr.Header().Rrtype])
		}
	}
	if len(all) > 0 {
		return all
	}
	if m.Rcode == dns.RcodeSuccess {
		return []string{"nodata"}
	}
	return []string{dns.RcodeToString[m.Rcode]}
}

func TestNamesAndWhoSeesThem(t *testing.T) {
	w := newWorld(t, one, two, other, alone)
	a := func(c Clone) netip.Addr { return c.Addrs[0] }
	stranger := netip.MustParseAddr("127.0.0.99")
	for i, tt := range []struct {
		from netip.Addr
		name string
		of   uint16
		want []string
	}{
		{hostAddr, "pr-1.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.11"}},
		{hostAddr, "PR-1.CtrSnap.internal.", dns.TypeAAAA, []string{"fd00::b"}},
		{hostAddr, "cone.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.11"}},
		{hostAddr, "shop.l1.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.11", "127.0.0.12"}},
		{hostAddr, "shop.l2.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.13"}},
		{hostAddr, "pr-2.ctrsnap.internal.", dns.TypeAAAA, []string{"nodata"}},
		{hostAddr, "pr-1.ctrsnap.internal.", dns.TypeMX, []string{"nodata"}},
		{hostAddr, "pr-1.ctrsnap.internal.", dns.TypeANY, []string{"HINFO"}},
		{hostAddr, "pr-1.ctrsnap.internal.", dns.TypeSRV, []string{"nodata"}},
		{hostAddr, "l1.ctrsnap.internal.", dns.TypeA, []string{"nodata"}},
		{hostAddr, "none.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{hostAddr, "shop.none.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{hostAddr, "a.b.c.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{hostAddr, "_postgresql._tcp.pr-1.ctrsnap.internal.", dns.TypeSRV, []string{"pr-1.ctrsnap.internal. 5432"}},
		{hostAddr, "_postgresql._tcp.shop.l1.ctrsnap.internal.", dns.TypeSRV, []string{"pr-1.ctrsnap.internal. 5432", "ctwo.ctrsnap.internal. 5432"}},
		{hostAddr, "_postgresql._tcp.pr-1.ctrsnap.internal.", dns.TypeA, []string{"nodata"}},
		{hostAddr, "_tcp.pr-1.ctrsnap.internal.", dns.TypeSRV, []string{"nodata"}},
		{hostAddr, "_mysql._tcp.pr-1.ctrsnap.internal.", dns.TypeSRV, []string{"NXDOMAIN"}},
		{hostAddr, "_postgresql._udp.pr-1.ctrsnap.internal.", dns.TypeSRV, []string{"NXDOMAIN"}},
		{hostAddr, "ctrsnap.internal.", dns.TypeSOA, []string{"SOA"}},
		{hostAddr, "ctrsnap.internal.", dns.TypeNS, []string{"NS"}},
		{hostAddr, "ctrsnap.internal.", dns.TypeA, []string{"127.0.0.1"}},
		{hostAddr, "ctrsnap.internal.", dns.TypeAAAA, []string{"nodata"}},
		{hostAddr, "11.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"pr-1.ctrsnap.internal."}},
		{hostAddr, "12.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"ctwo.ctrsnap.internal."}},
		{hostAddr, "1.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"ctrsnap.internal."}},
		{hostAddr, "12.0.0.127.in-addr.arpa.", dns.TypeA, []string{"nodata"}},
		{hostAddr, "77.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"NXDOMAIN"}},
		{hostAddr, "b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, []string{"pr-1.ctrsnap.internal."}},
		{hostAddr, "1.2.0.192.in-addr.arpa.", dns.TypePTR, []string{"REFUSED"}},
		{hostAddr, "0.0.127.in-addr.arpa.", dns.TypePTR, []string{"REFUSED"}},
		{hostAddr, "example.com.", dns.TypeA, []string{"REFUSED"}},
		{hostAddr, "internal.", dns.TypeNS, []string{"REFUSED"}},
		{hostAddr, "notctrsnap.internal.", dns.TypeA, []string{"REFUSED"}},
		{hostAddr, ".", dns.TypeNS, []string{"REFUSED"}},
		{hostAddr, "ctrsnap.internal.", dns.TypeAXFR, []string{"REFUSED"}},

		{a(two), "pr-1.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.11"}},
		{a(two), "shop.l1.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.11", "127.0.0.12"}},
		{a(two), "11.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"pr-1.ctrsnap.internal."}},
		{a(two), "pr-2.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{a(two), "cother.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{a(two), "shop.l2.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{a(two), "l2.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{a(two), "_postgresql._tcp.pr-2.ctrsnap.internal.", dns.TypeSRV, []string{"NXDOMAIN"}},
		{a(two), "_tcp.pr-2.ctrsnap.internal.", dns.TypeSRV, []string{"NXDOMAIN"}},
		{a(two), "13.0.0.127.in-addr.arpa.", dns.TypePTR, []string{"NXDOMAIN"}},
		{a(alone), "calone.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.14"}},
		{a(alone), "pr-1.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{a(other), "calone.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{stranger, "pr-1.ctrsnap.internal.", dns.TypeA, []string{"REFUSED"}},
		{one.Addrs[0], "shop.ctrsnap.internal.", dns.TypeA, []string{"127.0.0.11", "127.0.0.12"}},
		{hostAddr, "shop.ctrsnap.internal.", dns.TypeA, []string{"NXDOMAIN"}},
		{stranger, "ctrsnap.internal.", dns.TypeSOA, []string{"REFUSED"}},
	} {
		q := query(tt.name, tt.of)
		m := w.exchange(tt.from, []string{"udp", "tcp"}[i%2], q)
		if d := cmp.Diff(tt.want, said(m)); d != "" {
			t.Errorf("%s asks %s %s: %s", tt.from, tt.name, dns.TypeToString[tt.of], d)
		}
		if refused := m.Rcode == dns.RcodeRefused; m.Authoritative == refused || m.RecursionAvailable {
			t.Errorf("%s asks %s: %s", tt.from, tt.name, m)
		} else if noAnswer := len(m.Answer) == 0; noAnswer != refused && noAnswer != (len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA) {
			t.Errorf("%s asks %s: no SOA: %s", tt.from, tt.name, m)
		}
		if m.Question[0].Name != tt.name {
			t.Errorf("asked for %s, told about %s", tt.name, m.Question[0].Name)
		}
	}
}

func TestServiceComesWithItsAddresses(t *testing.T) {
	w := newWorld(t, one)
	m := w.ask(hostAddr, "_postgresql._tcp.pr-1.ctrsnap.internal.", dns.TypeSRV)
	got := said(&dns.Msg{MsgHdr: m.MsgHdr, Answer: m.Extra})
	if d := cmp.Diff([]string{"127.0.0.11", "fd00::b"}, got); d != "" {
		t.Error(d)
	}
}

// TestChangesAreSeenAtOnce also counts how often the directory is read.
func TestChangesAreSeenAtOnce(t *testing.T) {
	w := newWorld(t)
	for i := range 3 {
		w.dir.set(one)
		for range 3 {
			if got := said(w.ask(hostAddr, "pr-1.ctrsnap.internal.", dns.TypeA)); got[0] != "127.0.0.11" {
				t.Errorf("got %s", got)
			}
		}
		w.dir.set()
		if got := said(w.ask(hostAddr, "pr-1.ctrsnap.internal.", dns.TypeA)); got[0] != "NXDOMAIN" {
			t.Errorf("got %s", got)
		}
		if n := w.dir.reads(); n != 2*(i+1) {
			t.Errorf("read %d times", n)
		}
	}
}

// TestALongAnswerComesByTCP has 1,000 clones under one name.
func TestALongAnswerComesByTCP(t *testing.T) {
	var many []Clone
	for i := range 1000 {
		c := clone(fmt.Sprintf("c%d", i), "", "shop", "l1", "10.1.0.1")
		c.Addrs[0] = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		many = append(many, c)
	}
	w := newWorld(t, many...)
	q := query("shop.l1.ctrsnap.internal.", dns.TypeA)
	for _, size := range []uint16{0, 100, 1232, 65535} {
		if size > 0 {
			q = query(q.Question[0].Name, dns.TypeA).SetEdns0(size, false)
		}
		m := w.exchange(hostAddr, "udp", q)
		m.Compress = true // as it came
		limit := min(max(int(size), 512), 1232)
		if n := m.Len(); !m.Truncated || n > limit || n < limit/2 {
			t.Errorf("asked for %d bytes: %d, truncated %t", size, n, m.Truncated)
		}
		if opt := m.IsEdns0(); (opt != nil) != (size > 0) {
			t.Errorf("asked with EDNS %t: %v", size > 0, opt)
		}
	}
	if m := w.exchange(hostAddr, "tcp", q); m.Truncated || len(m.Answer) != 1000 {
		t.Errorf("%d answers by TCP, truncated %t", len(m.Answer), m.Truncated)
	}
}

func TestOddQueries(t *testing.T) {
	w := newWorld(t, one)
	for name, tt := range map[string]struct {
		change func(*dns.Msg)
		want   int
	}{
		"class":         {func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"opcode":        {func(q *dns.Msg) { q.Opcode = dns.OpcodeNotify }, dns.RcodeNotImplemented},
		"update":        {func(q *dns.Msg) { q.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"no question":   {func(q *dns.Msg) { q.Question = nil }, dns.RcodeFormatError},
		"two questions": {func(q *dns.Msg) { q.Question = append(q.Question, q.Question[0]) }, dns.RcodeFormatError},
		"EDNS 1":        {func(q *dns.Msg) { q.SetEdns0(512, false); q.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
		"two OPT":       {func(q *dns.Msg) { q.SetEdns0(512, false); q.SetEdns0(512, false) }, dns.RcodeFormatError},
		"key exchange":  {func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeTKEY }, dns.RcodeRefused},
	} {
		for _, network := range []string{"udp", "tcp"} {
			q := query("pr-1.ctrsnap.internal.", dns.TypeA)
			tt.change(q)
			if m := w.exchange(hostAddr, network, q); m.Rcode != tt.want || len(m.Answer) > 0 {
				t.Errorf("%s by %s: %s", name, network, m)
			}
		}
	}
}

// TestTooManyConnections has one address open more than it may: others and UDP go on.
func TestTooManyConnections(t *testing.T) {
	w := newWorld(t, one, two)
	d := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(two.Addrs[0], 0))}
	for range maxConnsOf {
		c, err := d.Dial("tcp", netip.AddrPortFrom(hostAddr, w.port).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, err := d.Dial("tcp", netip.AddrPortFrom(hostAddr, w.port).String())
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	var timeout net.Error
	if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("one connection more: %v", err)
	}
	for from, network := range map[netip.Addr]string{hostAddr: "tcp", two.Addrs[0]: "udp"} {
		if m := w.exchange(from, network, query("pr-1.ctrsnap.internal.", dns.TypeA)); said(m)[0] != "127.0.0.11" {
			t.Errorf("%s by %s: %s", from, network, m)
		}
	}
}

func TestListen(t *testing.T) {
	w := newWorld(t, one)
	if err := w.Listen(t.Context(), netip.PrefixFrom(hostAddr, 24)); err != nil {
		t.Errorf("again: %v", err)
	}
	second := New(w.dir, Options{Port: w.port})
	if err := second.Listen(t.Context(), netip.PrefixFrom(hostAddr, 24)); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("where another one listens: %v", err)
	}
	// Only TCP is taken: what was begun is undone.
	at := netip.MustParsePrefix("127.0.0.3/24")
	l, err := net.Listen("tcp", netip.AddrPortFrom(at.Addr(), w.port).String())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Listen(t.Context(), at); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("where TCP is taken: %v", err)
	}
	_ = l.Close()
	if err := second.Listen(t.Context(), at); err != nil {
		t.Errorf("after: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if err := second.Listen(t.Context(), at); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// FuzzAnswer has anything that is a message answered: the answer can be sent,
// belongs to the query, and has no more than its size.
func FuzzAnswer(f *testing.F) {
	for _, q := range []*dns.Msg{
		query("pr-1.ctrsnap.internal.", dns.TypeA), query("_postgresql._tcp.shop.l1.ctrsnap.internal.", dns.TypeSRV),
		query("12.0.0.127.in-addr.arpa.", dns.TypePTR), query("ctrsnap.internal.", dns.TypeANY),
		query("b.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR).SetEdns0(4096, true),
	} {
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	dir := &fake{clones: []Clone{one, two, other, alone}}
	s := New(dir, Options{})
	s.listening[hostAddr] = &listener{subnet: netip.PrefixFrom(hostAddr, 24).Masked()}
	f.Fuzz(func(t *testing.T, b []byte, host bool) {
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			t.Skip()
		}
		from, size := alone.Addrs[0], udpSize(q)
		if host {
			from = hostAddr
		}
		m, _ := s.answer(q, from, hostAddr, size)
		out, err := m.Pack()
		if err != nil {
			t.Fatalf("answer to %s: %v", q, err)
		}
		// The question alone can be longer than what it may have been asked in.
		if len(out) > max(size, len(b)+11) || m.Id != q.Id || !m.Response {
			t.Errorf("%d bytes in answer to %d:\n%s\n%s", len(out), len(b), q, m)
		}
		if got := new(dns.Msg); got.Unpack(out) != nil {
			t.Errorf("answer to %s cannot be read: %x", q, out)
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok && !host && a.A.String() != alone.Addrs[0].String() && a.A.String() != hostAddr.String() {
				t.Errorf("%s is told of %s", from, a)
			}
		}
	})
}
