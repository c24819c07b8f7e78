package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// maxJSON is the most that a JSON document of a request may have, in bytes.
const maxJSON = 1 << 20

// routes registers every endpoint.
func (s *Server) routes() {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	registry.RegisterTypeAlias(reflect.TypeFor[api.Duration](), reflect.TypeFor[durationSchema]())
	format := huma.Format{Marshal: answerJSON, Unmarshal: json.Unmarshal}
	s.huma = huma.NewAPI(huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI:    "3.1.0",
			Info:       &huma.Info{Title: "ctrsnapd", Version: strconv.Itoa(api.Protocol)},
			Components: &huma.Components{Schemas: registry},
		},
		// "json" is what huma looks for to write its own errors (…+json).
		Formats:                      map[string]huma.Format{"application/json": format, "json": format},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
		Transformers:                 []huma.Transformer{replaceErrors},
	}, adapter{humago.NewAdapter(s.mux, "")})
	s.hostRoutes()
	s.goldenRoutes()
	s.cloneRoutes()
	s.poolRoutes()
	s.netRoutes()
	s.eventRoutes()
	s.engineRoutes()
	s.streamRoutes()
	tidy(s.huma.OpenAPI())
	document := sync.OnceValues(func() ([]byte, error) { return json.Marshal(s.huma.OpenAPI()) })
	s.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) {
		b, err := document()
		if err != nil {
			s.refuse(r.Context(), w, fmt.Errorf("encode OpenAPI document: %w", err))
			return
		}
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(b)
	})
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// answerJSON writes a whole answer. A client that is gone is no error: huma
// would panic.
func answerJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	if err := writeJSON(&b, v); err != nil {
		return err
	}
	_, _ = b.WriteTo(w)
	return nil
}

// operation describes one endpoint. success is the status of its answer, which may not be an error.
func operation[Req, Resp any](r api.Route[Req, Resp], success string) huma.Operation {
	return huma.Operation{
		OperationID:     r.ID,
		Method:          r.Method,
		Path:            r.Path,
		Summary:         r.Summary,
		Responses:       failures(success),
		MaxBodyBytes:    maxJSON,
		BodyReadTimeout: -1, // huma's would stay on the connection and cut the answer
	}
}

type jsonOut[O any] struct{ Body O }

// handle registers an endpoint that answers with a document.
func handle[Req, Resp any](s *Server, r api.Route[Req, Resp], h func(context.Context, access.Caller, *Req) (Resp, error)) {
	huma.Register(s.huma, operation(r, "200"), func(ctx context.Context, in *Req) (*jsonOut[Resp], error) {
		out, err := h(ctx, callOf(ctx).caller, in)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &jsonOut[Resp]{out}, nil
	})
}

// handleEmpty registers an endpoint that answers with nothing.
func handleEmpty[Req any](s *Server, r api.Route[Req, api.None], h func(context.Context, access.Caller, *Req) error) {
	huma.Register(s.huma, operation(r, "204"), func(ctx context.Context, in *Req) (*struct{}, error) {
		if err := h(ctx, callOf(ctx).caller, in); err != nil {
			return nil, s.fail(ctx, err)
		}
		return nil, nil
	})
}

// streamed describes the answer of an endpoint that writes it itself.
type streamed struct {
	status, contentType, description string
	of                               reflect.Type // of each line; nil is text
}

// handleStream registers an endpoint that writes its answer itself.
func handleStream[Req any](s *Server, r api.Route[Req, api.Streamed], as streamed, h func(w http.ResponseWriter, r *http.Request, in *Req)) {
	op := operation(r, as.status)
	op.Description = as.description
	if as.contentType != "" {
		schema := &huma.Schema{Type: huma.TypeString}
		if as.of != nil {
			schema = s.huma.OpenAPI().Components.Schemas.Schema(as.of, true, "")
		}
		op.Responses[as.status].Content = map[string]*huma.MediaType{as.contentType: {Schema: schema}}
	}
	op.DefaultStatus, _ = strconv.Atoi(as.status)
	huma.Register(s.huma, op, func(_ context.Context, in *Req) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(ctx huma.Context) {
			r, w := humago.Unwrap(ctx)
			h(w, r, in)
		}}, nil
	})
}

// failures are the answers of every endpoint beside its own.
func failures(own string) map[string]*huma.Response {
	code, _ := strconv.Atoi(own)
	return map[string]*huma.Response{
		own: {Description: http.StatusText(code)},
		"default": {Description: "Error", Content: map[string]*huma.MediaType{
			"application/json": {Schema: &huma.Schema{Ref: "#/components/schemas/ErrorBody"}},
		}},
	}
}

// adapter makes huma answer in our way.
type adapter struct{ huma.Adapter }

func (a adapter) Handle(op *huma.Operation, h func(huma.Context)) {
	a.Adapter.Handle(op, func(ctx huma.Context) { h(&answer{humaContext: ctx}) })
}

// humaContext is a name that differs from that of the method Context.
type humaContext huma.Context

// answer is a huma.Context whose content is JSON, whatever is asked for or
// sent as: curl's -d claims that it sends a form.
type answer struct {
	humaContext
	status int // in place of huma's own, if not 0
}

func (a *answer) Unwrap() huma.Context { return a.humaContext }

func (a *answer) Header(name string) string {
	if name == "Content-Type" || name == "Accept" {
		return ""
	}
	return a.humaContext.Header(name)
}

func (a *answer) SetHeader(name, value string) {
	if name == "Content-Type" {
		value = "application/json"
	}
	a.humaContext.SetHeader(name, value)
}

func (a *answer) SetStatus(status int) {
	if a.status != 0 {
		status = a.status
	}
	a.humaContext.SetStatus(status)
}

// replaceErrors puts our error document in place of huma's.
func replaceErrors(ctx huma.Context, _ string, v any) (any, error) {
	m, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	f := invalid(m.Status, m.Detail, m.Errors)
	if a, ok := ctx.(*answer); ok {
		a.status = f.status
	}
	return f, nil
}
