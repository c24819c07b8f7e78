package main

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

	"github.com/ctrsnap/ctrsnap/cmd/internal/telemetry"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
)

// maxAudit is how large the log of who did what becomes before it is begun anew, in bytes.
const maxAudit = 64 << 20

// openTelemetry opens what the daemon is watched by.
func (d *daemon) openTelemetry(ctx context.Context) (err error) {
	d.metrics = telemetry.NewMetrics()
	if d.traces, err = telemetry.OpenTraces(ctx); err != nil {
		return err
	}
	if err := os.MkdirAll(d.cfg.Root, 0o711); err != nil {
		return fmt.Errorf("make root directory: %w", err)
	}
	d.audit, err = telemetry.OpenAudit(filepath.Join(d.cfg.Root, "audit.log"), maxAudit)
	return err
}

func (d *daemon) closeTelemetry(ctx context.Context) error {
	err := d.traces.Close(ctx)
	if d.audit != nil {
		err = errors.Join(err, d.audit.Close())
	}
	return err
}

// observe is told of each clone.
func (d *daemon) observe(ctx context.Context, made manager.Made) {
	d.metrics.Observe(ctx, made)
	d.traces.Observe(ctx, made)
}

// auditLog writes a JSON document a line.
func (d *daemon) auditLog() *slog.Logger { return slog.New(slog.NewJSONHandler(d.audit, nil)) }

// watched has metrics read from what is open now.
func (d *daemon) watched() {
	d.metrics.Read(telemetry.Source{
		Seen: d.manager.Seen, Pools: func(ctx context.Context) ([]api.Pool, error) { return d.manager.Pools(ctx, access.Daemon) }, Load: d.manager.Load, Space: d.space, Room: d.manager.Room,
		Goldens: func(ctx context.Context) ([]api.Golden, error) { return d.builder.List(ctx, "") },
		Events:  d.events, Recover: d.recovered,
	})
}

// serveMetrics serves metrics to whoever connects to the address of the configuration, if it
// names one, until ctx ends.
func (d *daemon) serveMetrics(ctx context.Context) error {
	if d.cfg.Metrics.Listen == "" {
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.cfg.Metrics.Listen)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.metrics.Handler())
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() }) // a scrape that is cut is tried again
	go func() {
		if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("serve metrics", "error", err)
		}
	}()
	d.log.Info("metrics", "address", listener.Addr().String())
	return nil
}
