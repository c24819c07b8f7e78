package dns

import (
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	// ttl is how long an answer may be kept, in seconds: clones come and go.
	ttl = 5
	// negativeTTL is the same for the answer that there is none.
	negativeTTL = 1
	// maxUDP is how much is sent by UDP at most, in bytes: what every network
	// carries in one piece. See https://www.dnsflagday.net/2020/.
	maxUDP = 1232
	// minRR is the size of the smallest record that is sent, in bytes.
	minRR = 16
)

// udpSize returns how large an answer may be (RFC 6891, section 6.2.3).
func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	return dns.MinMsgSize
}

// answer returns what one who asks from an address is told, in at most size
// bytes, and whether others may be asked in place of that. It does not change q.
func (s *Server) answer(q *dns.Msg, from, local netip.Addr, size int) (_ *dns.Msg, forward bool) {
	r := &reply{Msg: new(dns.Msg), limit: size / minRR}
	r.SetReply(q)
	r.RecursionAvailable = false
	if q.IsEdns0() != nil {
		r.SetEdns0(maxUDP, false)
	}
	if r.Rcode = check(q); r.Rcode == dns.RcodeSuccess {
		forward = !s.fill(r, from, local)
	}
	r.Truncate(size)
	return r.Msg, forward
}

// check returns what is wrong with a query.
func check(q *dns.Msg) int {
	if q.Opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented
	}
	if len(q.Question) != 1 {
		return dns.RcodeFormatError
	}
	opts := 0
	for _, rr := range q.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			opts++
		}
	}
	if opts > 1 {
		return dns.RcodeFormatError
	}
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers
	}
	// Transfers and the like, RFC 6895, section 3.1.
	if t := q.Question[0].Qtype; q.Question[0].Qclass != dns.ClassINET || t >= 128 && t < dns.TypeANY || t == dns.TypeOPT {
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

// fill answers a query that is in order; false says that others may know.
func (s *Server) fill(r *reply, from, local netip.Addr) bool {
	v, ok := s.view(from)
	if !ok {
		r.Rcode = dns.RcodeRefused
		return true
	}
	r.RecursionAvailable = len(s.opts.Forward) > 0 && v.goesBeyond()
	name := dns.CanonicalName(r.Question[0].Name)
	if name == Zone {
		r.apex(v.version, local)
		return true
	}
	if rest, ok := strings.CutSuffix(name, "."+Zone); ok {
		r.names(v, rest)
		return true
	}
	a, zone, ok := parseReverse(name)
	if !ok || !s.serves(a) && len(v.of(v.addrs[a])) == 0 {
		r.Rcode = dns.RcodeRefused
		return !r.RecursionAvailable
	}
	r.reverse(v, a, zone, s.isHost(a))
	return true
}

// reply is an answer in the making.
type reply struct {
	*dns.Msg
	limit int // how many records can be of use
}

// add appends a record of the name that was asked for.
func (r *reply) add(rr dns.RR, rrtype uint16) {
	if len(r.Answer) >= r.limit {
		r.Truncated = true
		return
	}
	*rr.Header() = dns.RR_Header{Name: r.Question[0].Name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
	r.Answer = append(r.Answer, rr)
}

// end completes an authoritative answer. Without a record it says whose word it
// is that there is none (RFC 2308).
func (r *reply) end(zone string, version uint64, exists bool) {
	r.Authoritative = true
	if len(r.Answer) > 0 {
		return
	}
	if !exists {
		r.Rcode = dns.RcodeNameError
	}
	r.Ns = append(r.Ns, soa(zone, version))
}

func soa(zone string, version uint64) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL},
		Ns:  Zone, Mbox: "hostmaster." + Zone, Serial: uint32(version), //nolint:gosec // serials wrap around
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL,
	}
}

// apex answers for the zone's own name, which is the server's.
func (r *reply) apex(version uint64, local netip.Addr) {
	switch r.Question[0].Qtype {
	case dns.TypeSOA:
		r.add(soa(Zone, version), dns.TypeSOA)
	case dns.TypeNS:
		r.add(&dns.NS{Ns: Zone}, dns.TypeNS)
	case dns.TypeANY:
		r.any()
	default:
		r.address(local)
	}
	r.end(Zone, version, true)
}

// names answers for a name within the zone.
func (r *reply) names(v view, name string) {
	clones, service, exists := v.find(name)
	for _, c := range clones {
		switch {
		case r.Question[0].Qtype == dns.TypeANY:
			r.any()
		case service != "":
			r.service(c)
		default:
			for _, a := range c.Addrs {
				r.address(a)
			}
		}
	}
	r.end(Zone, v.version, exists)
}

// address adds an address if one of its kind is asked for.
func (r *reply) address(a netip.Addr) {
	switch t := r.Question[0].Qtype; {
	case t == dns.TypeA && a.Is4():
		r.add(&dns.A{A: net.IP(a.AsSlice())}, t)
	case t == dns.TypeAAAA && a.Is6():
		r.add(&dns.AAAA{AAAA: net.IP(a.AsSlice())}, t)
	}
}

// service adds where a service is, and the addresses beside (RFC 2782).
func (r *reply) service(c *Clone) {
	if r.Question[0].Qtype != dns.TypeSRV {
		return
	}
	before := len(r.Answer)
	if r.add(&dns.SRV{Port: c.Port, Target: c.host()}, dns.TypeSRV); len(r.Answer) == before {
		return
	}
	for _, a := range c.Addrs {
		h := dns.RR_Header{Name: c.host(), Class: dns.ClassINET, Ttl: ttl}
		if h.Rrtype = dns.TypeAAAA; a.Is4() {
			h.Rrtype = dns.TypeA
			r.Extra = append(r.Extra, &dns.A{Hdr: h, A: net.IP(a.AsSlice())})
			continue
		}
		r.Extra = append(r.Extra, &dns.AAAA{Hdr: h, AAAA: net.IP(a.AsSlice())})
	}
}

// any answers a query for everything with next to nothing (RFC 8482).
func (r *reply) any() {
	if len(r.Answer) == 0 {
		r.add(&dns.HINFO{Cpu: "RFC8482"}, dns.TypeHINFO)
	}
}
