package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// drainTime is how long the rest of a body is taken after the answer's end, so
// that a client that writes first and reads then gets to read.
const drainTime = 10 * time.Second

// build reads the parts of the form and writes events at the same time.
func (s *Server) build(w http.ResponseWriter, r *http.Request, _ *struct{}) {
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
		g = finishGolden(g)
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
	form, err := r.MultipartReader()
	if err != nil {
		return api.Golden{}, false, usage(http.StatusBadRequest, "invalid request: want a multipart/form-data body", "see /openapi.json")
	}
	spec, err := form.NextPart()
	if err != nil || spec.FormName() != api.PartSpec {
		return api.Golden{}, false, usage(http.StatusBadRequest, "invalid request: the first part is not "+api.PartSpec, "send the BuildRequest as form field "+api.PartSpec)
	}
	req, err := decode[api.BuildRequest](s.huma.OpenAPI().Components.Schemas, spec)
	if err != nil {
		return api.Golden{}, false, err
	}
	return s.goldens.Build(ctx, callOf(ctx).caller, req, func() (Part, error) { return nextPart(ctx, form) }, out.event)
}

// nextPart returns io.EOF itself only where the form has its proper end: a body
// that was cut must not pass for a whole one.
func nextPart(ctx context.Context, form *multipart.Reader) (Part, error) {
	p, err := form.NextPart()
	switch {
	case err == io.EOF: //nolint:errorlint // a wrapped io.EOF is a form without its end
		return Part{}, io.EOF
	case ctx.Err() != nil:
		return Part{}, context.Cause(ctx)
	case err != nil:
		return Part{}, usage(http.StatusBadRequest, "invalid request: the body is cut or is no form: "+err.Error(), "")
	}
	kind, name := p.FormName(), p.FileName()
	if !slices.Contains(api.Parts, kind) {
		return Part{}, usage(http.StatusBadRequest, fmt.Sprintf("invalid request: unknown part %q", kind), "use "+strings.Join(api.Parts, ", "))
	}
	if name == "" {
		return Part{}, usage(http.StatusBadRequest, fmt.Sprintf("invalid request: part %s has no file name", kind), "send it as a file")
	}
	return Part{Kind: kind, Name: name, Reader: &partReader{ctx, p}}, nil
}

// partReader gives the reason why a body could not be read to its end.
type partReader struct {
	ctx context.Context
	r   io.Reader
}

func (p *partReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	switch {
	case err == nil || err == io.EOF: //nolint:errorlint // as in nextPart
		return n, err
	case p.ctx.Err() != nil:
		return n, context.Cause(p.ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, usage(http.StatusBadRequest, "invalid request: the body is cut", "")
	default:
		return n, err
	}
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
