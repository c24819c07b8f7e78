// Package telemetry is how a daemon is watched: metrics for Prometheus, traces for
// OpenTelemetry, and the log of who did what.
package telemetry

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
)

// Source is what figures are read from when somebody asks for them: nothing is counted on the
// way of a clone but its own times.
type Source struct {
	LastMeasured func() []api.Clone
	Pools        func(context.Context) ([]api.Pool, error)
	Goldens      func(context.Context) ([]api.Golden, error)
	Load         func() manager.Load
	Space        func() (patrol.Space, error)
	Room         func() error
	Events       *event.Hub
	Recover      manager.Report // what was found at the start
}

// Metrics are in a registry of their own. They are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry
	stages   *prometheus.HistogramVec
	made     *prometheus.CounterVec
}

// NewMetrics returns metrics that have no source yet.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ctrsnap_clone_stage_seconds", Help: "Time of the stages of a clone, by stage; way is pool (claimed), cold (made for its caller) or ahead (made for the pool).",
			Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}, []string{"stage", "way"}),
		made: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ctrsnap_clone_made_total", Help: "Clones by golden, way (pool, cold, ahead) and result.",
		}, []string{"golden", "way", "result"}),
	}
	m.registry.MustRegister(m.stages, m.made, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe takes the times of a clone.
func (m *Metrics) Observe(_ context.Context, made manager.Made) {
	way, result := way(made), "ok"
	if made.Err != nil {
		result = "error"
	}
	m.made.WithLabelValues(made.Golden.Name, way, result).Inc()
	for stage, ms := range made.Timings {
		m.stages.WithLabelValues(string(stage), way).Observe(ms / 1000)
	}
}

func way(made manager.Made) string {
	_, claimed := made.Timings[api.StageClaim]
	switch {
	case made.Member:
		return "ahead"
	case claimed:
		return "pool"
	}
	return "cold"
}

// Read has figures read from s.
func (m *Metrics) Read(s Source) { m.registry.MustRegister(&collector{s}) }

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Timeout: 10 * time.Second})
}
