package server

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/danielgtaylor/huma/v2"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (s *Server) streamRoutes() {
	lines := streamed{status: "200", contentType: "application/x-ndjson"}
	handleStream(s, api.ReadLogs, streamed{status: "200", contentType: "text/plain"}, s.logs)
	handleStream(s, api.ReadEvents, lines, s.events)
	lines.of = reflect.TypeFor[api.Lease]()
	lines.description = "The first line of the answer is a Lease: it is held. Empty lines follow. An ErrorBody as the last line says that the " +
		"lease has ended. An answer that breaks off says that the daemon stops, or is gone: the clones live on, and so does the lease " +
		"if it is taken again before clone.lease_grace is over, which begins when the daemon serves again. Until then try again, " +
		"also after a status of 500 or above; a status between 400 and 499 says that the lease is lost."
	handleStream(s, api.HoldLease, lines, s.lease)
	lines.of = reflect.TypeFor[api.BuildEvent]()
	lines.description = "The answer is a BuildEvent per line, while the body is still being sent. The last has type done or error. " +
		"A build that fails before its first event is answered by a status and an ErrorBody."
	handleStream(s, api.BuildGolden, lines, s.build)
	handleStream(s, api.ExecInClone, streamed{
		status: "101",
		description: "Wants the headers Connection: Upgrade and Upgrade: " + api.ExecProtocol + ". After the answer 101 both sides " +
			"speak frames: one byte stream, four bytes length (big endian), payload. The client's first is stream 0, an ExecRequest. " +
			"Streams: 0 request, 1 stdin, 2 end of stdin, 3 size of the terminal (rows, columns; two bytes each), 4 stdout, 5 stderr, " +
			"6 exit code (four bytes), 7 Error. The daemon's last is 6 or 7.",
	}, s.exec)
	doc := s.huma.OpenAPI()
	doc.Components.Schemas.Schema(reflect.TypeFor[api.ExecRequest](), true, "")
	doc.Paths[api.BuildGolden.Path].Post.RequestBody = &huma.RequestBody{
		Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {Schema: formSchema(doc.Components.Schemas)}},
	}
}

// formSchema describes the body of a build request.
func formSchema(registry huma.Registry) *huma.Schema {
	s := &huma.Schema{
		Type:       huma.TypeObject,
		Required:   []string{api.PartSpec},
		Properties: map[string]*huma.Schema{api.PartSpec: registry.Schema(reflect.TypeFor[api.BuildRequest](), true, "")},
	}
	for _, kind := range api.Parts {
		s.Properties[kind] = &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString, Format: "binary"}}
	}
	return s
}

// logs answers with text. An error after it has begun is sent as a trailer.
func (s *Server) logs(w http.ResponseWriter, r *http.Request, in *api.LogsArgs) {
	ctx, done := s.stream(r)
	defer done()
	out := &flusher{w: w, contentType: "text/plain; charset=utf-8"}
	err := s.clones.Logs(ctx, callOf(ctx).caller, in.ID, in.Tail, in.Follow, out)
	switch {
	case err == nil && !out.begun:
		_, _ = out.Write(nil)
	case err != nil && !out.begun:
		s.refuse(ctx, w, err)
	case err != nil:
		b, _ := json.Marshal(s.fail(ctx, err))
		w.Header().Set(http.TrailerPrefix+api.TrailerError, string(b))
	}
}

// flusher sends what is written at once.
type flusher struct {
	w           http.ResponseWriter
	contentType string
	begun       bool
}

func (f *flusher) Write(p []byte) (int, error) {
	if !f.begun {
		f.begun = true
		f.w.Header().Set("Content-Type", f.contentType)
	}
	n, err := f.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, http.NewResponseController(f.w).Flush()
}

// lease holds a lease for as long as the connection lives. An empty line now and then finds out whether it does. When
// the daemon stops, the answer breaks off, as it does when the daemon crashes: the lease is not lost, and may be taken
// again from the next daemon.
func (s *Server) lease(w http.ResponseWriter, r *http.Request, in *api.LeaseArgs) {
	ctx, done := s.stream(r)
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := &flusher{w: w, contentType: "application/x-ndjson"}
	var once sync.Once
	var alive sync.WaitGroup
	err := s.clones.Hold(ctx, callOf(ctx).caller, in.ID, func() {
		once.Do(func() {
			if writeJSON(out, api.Lease{Schema: api.Schema, ID: in.ID}) != nil {
				cancel()
			}
			alive.Go(func() { s.keepLeaseAlive(ctx, cancel, out) })
		})
	})
	cancel()
	alive.Wait()
	switch {
	case err == nil:
	case !out.begun:
		s.refuse(ctx, w, err)
	case errdefs.IsUnavailable(err):
		panic(http.ErrAbortHandler)
	default:
		_ = writeJSON(out, s.fail(r.Context(), err))
	}
}

func (s *Server) keepLeaseAlive(ctx context.Context, cancel func(), out io.Writer) {
	tick := time.NewTicker(s.keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, err := out.Write([]byte("\n")); err != nil {
				cancel()
				return
			}
		}
	}
}
