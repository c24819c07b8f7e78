package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/manager"
)

// maxAudit is how large the log of who did what becomes before it is begun anew, in bytes.
const maxAudit = 64 << 20

// Telemetry is all that a daemon is watched by.
type Telemetry struct {
	*Metrics
	traces *Traces // nil where they go nowhere
	audit  *Audit
}

// Open opens it, with the log of who did what in dir, which is made if it does not exist. The caller must Close it.
func Open(ctx context.Context, dir string) (*Telemetry, error) {
	traces, err := OpenTraces(ctx)
	if err != nil {
		return nil, err
	}
	t := &Telemetry{Metrics: NewMetrics(), traces: traces}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, errors.Join(fmt.Errorf("make directory of audit log: %w", err), t.Close(ctx))
	}
	if t.audit, err = OpenAudit(filepath.Join(dir, "audit.log"), maxAudit); err != nil {
		return nil, errors.Join(err, t.Close(ctx))
	}
	return t, nil
}

// Close sends what is on its way. nil has nothing.
func (t *Telemetry) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	err := t.traces.Close(ctx)
	if t.audit != nil {
		err = errors.Join(err, t.audit.Close())
	}
	return err
}

// Observe is told of each clone.
func (t *Telemetry) Observe(ctx context.Context, made manager.Made) {
	t.Metrics.Observe(ctx, made)
	t.traces.Observe(ctx, made)
}

// Audit takes who did what: a JSON document a line.
func (t *Telemetry) Audit() *slog.Logger { return slog.New(slog.NewJSONHandler(t.audit, nil)) }

// Serve serves metrics to whoever connects to a TCP address, until ctx ends. "" serves nobody.
func (t *Telemetry) Serve(ctx context.Context, address string, log *slog.Logger) error {
	if address == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", t.Handler())
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() }) // a scrape that is cut is tried again
	go func() {
		if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.ErrorContext(ctx, "serve metrics", "error", err)
		}
	}()
	log.InfoContext(ctx, "metrics", "address", listener.Addr().String())
	return nil
}
