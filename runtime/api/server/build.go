package server

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// drainTime is how long the rest of a body is taken after the answer's end, so
// that a client that writes first and reads then gets to read.
const drainTime = 10 * time.Second

// build reads the parts of the form and writes events at the same time.
func (s *Server) build(w http.ResponseWriter, r *http.Request, _ *api.None) {
	ctx, done := s.stream(r)
	defer done()
	rc := http.NewResponseController(w)
	// Not every ResponseWriter can; those then answer after the body's end.
	_ = rc.EnableFullDuplex()
	unblock := context.AfterFunc(ctx, func() { _ = rc.SetReadDeadline(time.Now()) })

	out := &events{flusher: flusher{w: w, contentType: "application/x-ndjson"}}
	g, existed, err := s.buildForm(ctx, r, out)
	switch {
	case err == nil:
		g, _ = finishGolden(g, nil)
		out.last(api.BuildEvent{Type: api.EventDone, Golden: &g, Existed: existed})
	case out.hasBegun(): // the status is sent already
		out.last(api.BuildEvent{Type: api.EventError, Error: s.fail(ctx, err).ErrorBody.Error})
	default:
		s.refuse(ctx, w, err)
		_ = rc.Flush()
	}
	if unblock() {
		_ = rc.SetReadDeadline(time.Now().Add(drainTime))
		_, _ = io.Copy(io.Discard, r.Body)
		_ = rc.SetReadDeadline(time.Time{})
	}
}

func (s *Server) buildForm(ctx context.Context, r *http.Request, out *events) (api.Golden, bool, error) {
	form, err := openForm(ctx, r)
	if err != nil {
		return api.Golden{}, false, err
	}
	spec, err := form.spec()
	if err != nil {
		return api.Golden{}, false, err
	}
	req, err := decode[api.BuildRequest](s.huma.OpenAPI().Components.Schemas, spec)
	if err != nil {
		return api.Golden{}, false, err
	}
	return s.goldens.Build(ctx, callOf(ctx).caller, req, form.next, out.event)
}

// events writes one line per event, from any goroutine.
type events struct {
	mu sync.Mutex
	flusher
	ended bool
}

// event sends e, unless the end was sent already. A client that is gone ends
// the request's context, so there is no error to be told.
func (o *events) event(e api.BuildEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		_ = writeJSON(&o.flusher, e)
	}
}

// last sends the last event: what comes later from anywhere is dropped.
func (o *events) last(e api.BuildEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	_ = writeJSON(&o.flusher, e)
}

// hasBegun says whether an event was sent. If none was, none will be.
func (o *events) hasBegun() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = !o.begun
	return o.begun
}
