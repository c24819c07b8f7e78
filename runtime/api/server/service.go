package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/event"
)

// Options say what a Server serves.
type Options struct {
	Clones  Clones
	Goldens Goldens
	Pools   Pools
	Host    Host
	// Interfaces and Networks are optional: what is nil is not served.
	Interfaces Interfaces
	Networks   Networks
	Engines    Engines // optional as well
	Stats      Stats
	// Events are served from here; nil has none.
	Events *event.Hub
	// Metrics is served to administrators; nil is not.
	Metrics http.Handler
	// Audit takes who wanted to change what; nil takes nothing.
	Audit *slog.Logger
	// AdminGroup may do with all clones and goldens what their owners may; one that does
	// not exist is nobody, and root needs none.
	AdminGroup string
	// CertUsers are who comes by TLS; nil lets nobody in. CertAdmins are the common names of
	// administrators among them.
	CertUsers  *access.CertUsers
	CertAdmins []string
	// Logger takes the access log and internal errors; nil means slog.Default().
	Logger *slog.Logger
	// Grace is how long requests in progress may take to end once the server
	// stops; builds, execs, logs and leases end at once. 0 means 5 seconds.
	Grace time.Duration
}

// Server serves the API. It is safe for concurrent use.
type Server struct {
	clones  Clones
	goldens Goldens
	pools   Pools
	host    Host

	interfaces Interfaces
	networks   Networks
	engines    Engines

	stats    Stats
	hub      *event.Hub
	metrics  http.Handler
	auditLog *slog.Logger

	log   *slog.Logger
	grace time.Duration
	// keepAlive is how often a lease's connection is written to, and watch how
	// often a stream looks whether its client is still there.
	keepAlive, watch time.Duration

	huma       huma.API
	mux        *http.ServeMux
	handler    http.Handler
	users      userNames
	admins     group
	certUsers  *access.CertUsers
	certAdmins []string

	stopping context.Context // ends with runtime.ErrStopping
	stop     context.CancelCauseFunc
	active   sync.WaitGroup // requests in progress, hijacked ones too
}

// New returns a server that does not listen yet.
func New(o Options) *Server {
	s := &Server{
		clones: o.Clones, goldens: o.Goldens, pools: o.Pools, host: o.Host, stats: o.Stats, hub: o.Events, metrics: o.Metrics, auditLog: o.Audit, interfaces: o.Interfaces, networks: o.Networks, engines: o.Engines, log: o.Logger, grace: o.Grace,
		keepAlive: 15 * time.Second, watch: time.Second,
		mux: http.NewServeMux(), certUsers: o.CertUsers, certAdmins: o.CertAdmins, admins: group{name: o.AdminGroup},
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.grace == 0 {
		s.grace = 5 * time.Second
	}
	s.stopping, s.stop = context.WithCancelCause(context.Background())
	s.routes()
	s.handler = s.observe(s.negotiate(s.route(s.mux)))
	return s
}

// Handler returns the API as a handler. Callers are known only where
// [Server.Serve] accepted the connection.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve serves listeners until ctx ends or one of them fails, and closes them. Streams then
// end at once, other requests within the grace period. It returns nil if all of them did. A
// server serves once, any number of listeners.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(runtime.ErrStopping)
	hs := &http.Server{
		Handler:           s.handler,
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext:       withConn,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- hs.Serve(l) }()
	}
	left := len(listeners)
	var err error
	select {
	case err = <-served:
		left--
	case <-ctx.Done():
	}
	s.stop(runtime.ErrStopping)
	err = errors.Join(err, s.shutdown(ctx, hs))
	cancel(runtime.ErrStopping) // what is left is told, and waited for
	s.active.Wait()
	for range left {
		if served := <-served; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
	}
	return err
}

func (s *Server) shutdown(ctx context.Context, hs *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.grace)
	defer cancel()
	err := hs.Shutdown(ctx)
	if err != nil {
		_ = hs.Close()
	}
	return err
}

// stream returns the context of a request that may last: it ends also when the
// server stops or the client has gone, which net/http notices only where a
// request body is at its end.
func (s *Server) stream(r *http.Request) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(r.Context())
	forget := context.AfterFunc(s.stopping, func() { cancel(runtime.ErrStopping) })
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchPeer(ctx, connOf(ctx), s.watch, cancel)
	}()
	return ctx, func() {
		forget()
		cancel(nil)
		<-watched
	}
}
