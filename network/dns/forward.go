package dns

import (
	"time"

	"github.com/miekg/dns"
)

// forwardTimeout bounds each question to each server: programs ask again after 5 s.
const forwardTimeout = 2 * time.Second

// forward asks others what is not ours. Without an answer of theirs it is a
// failure of this server, or what was to be said if nobody was to be asked.
func (s *Server) forward(q, refused *dns.Msg, size int) *dns.Msg {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	default:
		return refused // too many ask
	}
	m := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	for _, server := range s.opts.Forward {
		got, err := exchange(q, server.String())
		if err != nil {
			s.opts.Log.Debug("forward query", "to", server, "error", err)
			continue
		}
		m = got
		break
	}
	m.Id, m.RecursionAvailable = q.Id, true
	m.Truncate(size)
	return m
}

// exchange asks one server, by TCP what is too long for UDP.
func exchange(q *dns.Msg, server string) (*dns.Msg, error) {
	ask := q.Copy()
	ask.Id = dns.Id() // not to be guessed from what the clone chose
	m, _, err := (&dns.Client{Timeout: forwardTimeout}).Exchange(ask, server)
	if err == nil && m.Truncated {
		m, _, err = (&dns.Client{Net: "tcp", Timeout: forwardTimeout}).Exchange(ask, server)
	}
	return m, err
}
