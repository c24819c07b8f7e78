// Package dns is a small authoritative name server for the zone
// ctrsnap.internal, in which clones find each other. It answers
//
//	NAME, ID and GOLDEN.LEASE   A and AAAA
//	_SERVICE._tcp. before them  SRV
//	the addresses               PTR
//
// and refuses all else, or forwards it if it is told to. Who asks is known by the
// address: a clone sees those of its own lease, this host and its containers see
// all, others nothing. GOLDEN alone is, for a clone, those of its own lease.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Zone is the domain of all names.
const Zone = "ctrsnap.internal."

const (
	maxQueries  = 64  // answered at once; what comes beside them by UDP is dropped
	maxConns    = 128 // of TCP, for each address that is listened on
	maxConnsOf  = 8   // the same, from one address
	maxOnConn   = 64  // queries
	idleTimeout = 4 * time.Second
	stopTimeout = 5 * time.Second
)

// Clone is what there is to say of one clone. ID, Name and Golden are DNS labels
// in lower case.
type Clone struct {
	ID     string
	Name   string // "" if it has none
	Golden string
	Lease  string // names those that see each other; "" is nobody
	Addrs  []netip.Addr
	// Service and Port are those of SRV, as in postgresql and 5432.
	Service string
	Port    uint16
	Egress  bool // it reaches what is beyond the host: what it asks for may be forwarded
	// Local says that what comes from Addrs is this clone's, whatever it sends:
	// it is on the network that is listened on, and cannot use others' addresses.
	Local bool
	// Owner is the number of a user: a name that several have is nobody's to the host.
	Owner int
}

// Directory knows the clones. It is called for each query, concurrently.
type Directory interface {
	// Names are the clones that can be found.
	Names() []Clone
	// NamesVersion changes with what Names returns. It is fast.
	NamesVersion() uint64
}

// Options configure a Server. The zero value listens on port 53.
type Options struct {
	Port uint16 // 0 is 53
	// Forward are the servers that are asked, in turn, for what is not ours; none
	// refuses it. Clones without egress are refused all the same: names carry data.
	Forward []netip.AddrPort
	// IsContainer says that an address is of a container of this host, which
	// sees what the host sees. It is called for strangers, concurrently; nil is none.
	IsContainer func(netip.Addr) bool
	Log         *slog.Logger // nil means slog.Default()
}

// Server answers queries. It is safe for concurrent use.
type Server struct {
	dir     Directory
	opts    Options
	queries chan struct{} // a token for each
	asking  chan struct{} // a token for each that is forwarded
	index   cache

	mu        sync.Mutex
	closed    bool
	listening map[netip.Addr]*listener
	serving   sync.WaitGroup
}

// listener is an address that is listened on, with the subnet around it.
type listener struct {
	subnet   netip.Prefix
	udp, tcp *dns.Server
}

// New returns a Server that does not listen yet. The caller must Close it.
func New(dir Directory, opts Options) *Server {
	if opts.Port == 0 {
		opts.Port = 53
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	return &Server{dir: dir, opts: opts, queries: make(chan struct{}, maxQueries), asking: make(chan struct{}, maxQueries), listening: map[netip.Addr]*listener{}}
}

// Listen answers at an address of this host, by UDP and TCP, and for the reverse
// names of the subnet around it. An address that it listens on already is no
// error; one where somebody else does is unix.EADDRINUSE.
func (s *Server) Listen(ctx context.Context, at netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	if s.listening[at.Addr()] != nil {
		return nil
	}
	addr := netip.AddrPortFrom(at.Addr(), s.opts.Port).String()
	var cfg net.ListenConfig
	udp, err := cfg.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return fmt.Errorf("listen for names: %w", err)
	}
	tcp, err := cfg.Listen(ctx, "tcp", addr)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for names: %w", err), udp.Close())
	}
	l := &listener{subnet: at.Masked()}
	l.udp = s.serve(&dns.Server{PacketConn: udp})
	l.tcp = s.serve(&dns.Server{Listener: newLimited(tcp), MaxTCPQueries: maxOnConn})
	s.listening[at.Addr()] = l
	return nil
}

// serve runs a server until Close, and returns when it can be shut down.
func (s *Server) serve(srv *dns.Server) *dns.Server {
	srv.Handler = dns.HandlerFunc(s.handle)
	srv.IdleTimeout = func() time.Duration { return idleTimeout }
	started := make(chan struct{})
	srv.NotifyStartedFunc = sync.OnceFunc(func() { close(started) })
	s.serving.Go(func() {
		defer srv.NotifyStartedFunc()
		if err := srv.ActivateAndServe(); err != nil {
			s.opts.Log.Error("answer names", "error", err)
		}
	})
	<-started
	return srv
}

// Close stops listening and waits for what is being answered. It is idempotent.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	all := s.listening
	s.listening = map[netip.Addr]*listener{}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	for _, l := range all {
		errs = append(errs, l.udp.ShutdownContext(ctx), l.tcp.ShutdownContext(ctx))
	}
	s.serving.Wait()
	return errors.Join(errs...)
}

// isHost says whether an address is one that is listened on: nobody but this
// host can ask from there.
func (s *Server) isHost(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listening[a] != nil
}

// serves says whether an address is of a subnet that is listened in.
func (s *Server) serves(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listening {
		if l.subnet.Contains(a) {
			return true
		}
	}
	return false
}

// handle answers one query.
func (s *Server) handle(w dns.ResponseWriter, q *dns.Msg) {
	from, local := addrOf(w.RemoteAddr()), addrOf(w.LocalAddr())
	size := dns.MaxMsgSize
	if w.RemoteAddr().Network() == "udp" {
		size = udpSize(q)
		select {
		case s.queries <- struct{}{}:
		default:
			return // it will ask again
		}
	} else {
		s.queries <- struct{}{}
	}
	m, forward := s.answer(q, from, local, size)
	<-s.queries
	if forward {
		m = s.forward(q, m, size)
	}
	if err := w.WriteMsg(m); err != nil {
		s.opts.Log.Debug("answer query", "from", from, "error", err)
	}
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
