package dns

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"
)

// upstream is a name server that knows example.com, and counts who asks.
func upstream(t *testing.T, long bool) (at netip.AddrPort, asked chan string) {
	t.Helper()
	asked = make(chan string, 100)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked <- w.RemoteAddr().Network() + " " + q.Question[0].Name
		m := new(dns.Msg).SetReply(q)
		if long && w.RemoteAddr().Network() == "udp" {
			m.Truncated = true
		} else {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}})
		}
		_ = w.WriteMsg(m)
	})
	started := make(chan struct{}, 2)
	tcp := &dns.Server{Addr: "127.0.0.1:0", Net: "tcp", Handler: handler, NotifyStartedFunc: func() { started <- struct{}{} }}
	go func() { _ = tcp.ListenAndServe() }()
	<-started
	udp := &dns.Server{Addr: tcp.Listener.Addr().String(), Net: "udp", Handler: handler, NotifyStartedFunc: func() { started <- struct{}{} }}
	failed := make(chan error, 1)
	go func() { failed <- udp.ListenAndServe() }()
	select {
	case <-started:
	case err := <-failed:
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tcp.Shutdown(); _ = udp.Shutdown() })
	return netip.MustParseAddrPort(udp.Addr), asked
}

// TestForward asks others for those who may go beyond this host, and for nobody else.
func TestForward(t *testing.T) {
	for _, long := range []bool{false, true} {
		at, asked := upstream(t, long)
		free := two
		free.Egress = true
		w := newWorld(t, one, free)
		dead := netip.MustParseAddrPort("127.0.0.1:1") // nobody listens: the next one is asked
		w.opts.Forward = []netip.AddrPort{dead, at}
		w.opts.IsContainer = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.90") }
		for _, tt := range []struct {
			from  string
			name  string
			rcode int
			asked bool
		}{
			{"127.0.0.12", "example.com.", dns.RcodeSuccess, true},
			{"127.0.0.1", "example.com.", dns.RcodeSuccess, true},
			{"127.0.0.90", "example.com.", dns.RcodeSuccess, true},
			{"127.0.0.11", "secret.example.com.", dns.RcodeRefused, false},
			{"127.0.0.91", "example.com.", dns.RcodeRefused, false},
			{"127.0.0.12", "nonesuch.ctrsnap.internal.", dns.RcodeNameError, false},
			{"127.0.0.90", "pr-1.ctrsnap.internal.", dns.RcodeSuccess, false},
		} {
			m := w.exchange(netip.MustParseAddr(tt.from), "udp", new(dns.Msg).SetQuestion(tt.name, dns.TypeA))
			if m.Rcode != tt.rcode || (m.Rcode == dns.RcodeSuccess) != (len(m.Answer) == 1) {
				t.Errorf("%s asks for %s: %v", tt.from, tt.name, m)
			}
			if n := len(asked); (n > 0) != tt.asked {
				t.Errorf("%s asks for %s: others are asked %d times", tt.from, tt.name, n)
			}
			for len(asked) > 0 {
				<-asked
			}
		}
		w.opts.Forward = []netip.AddrPort{dead}
		if m := w.exchange(hostAddr, "udp", new(dns.Msg).SetQuestion("example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("nobody answers: %v", m)
		}
	}
}
