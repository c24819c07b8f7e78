package telemetry

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
)

// Traces sends a span for each clone, and one for each of its stages. They are made of
// the clone's times when it is ready, so that tracing costs nothing on the way.
type Traces struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// OpenTraces returns where traces go by the environment: nil, which sends none, unless
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is there. See
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/. The caller must Close it.
func OpenTraces(ctx context.Context) (*Traces, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("open traces: %w", err)
	}
	res, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", "ctrsnapd")), resource.WithFromEnv(), resource.WithHost())
	if err != nil {
		return nil, fmt.Errorf("open traces: %w", err)
	}
	return newTraces(sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(res))), nil
}

func newTraces(p *sdk.TracerProvider) *Traces {
	return &Traces{provider: p, tracer: p.Tracer("github.com/ctrsnap/ctrsnap")}
}

// Observe makes the spans of a clone.
func (t *Traces) Observe(ctx context.Context, made manager.Made) {
	if t == nil {
		return
	}
	ctx, span := t.tracer.Start(ctx, "clone", trace.WithTimestamp(made.Began), trace.WithAttributes(
		attribute.String("ctrsnap.golden", made.Golden.String()), attribute.String("ctrsnap.way", way(made))))
	end := made.Began
	for _, stage := range api.Stages {
		ms, happened := made.Timings[stage]
		if !happened || stage == api.StageTotal {
			continue
		}
		begin := end
		if stage == api.StageNetwork { // it is beside prepare
			begin = made.Began
		}
		_, s := t.tracer.Start(ctx, string(stage), trace.WithTimestamp(begin))
		at := begin.Add(time.Duration(ms * float64(time.Millisecond)))
		s.End(trace.WithTimestamp(at))
		if at.After(end) {
			end = at
		}
	}
	if made.Err != nil {
		span.SetStatus(codes.Error, "not made") // the error itself may name secrets
	}
	span.End(trace.WithTimestamp(end))
}

// Close sends what is left.
func (t *Traces) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}
