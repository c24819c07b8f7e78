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

type logsIn struct {
	ID     string `path:"id" doc:"id, unique prefix of one, or name"`
	Tail   int    `query:"tail" default:"-1" minimum:"-1" doc:"how many of the last lines; -1 means all"`
	Follow bool   `query:"follow" doc:"go on with what comes, until the clone ends"`
}

type leaseIn struct {
	ID string `path:"id"`
}

func (s *Server) streamRoutes() {
	handleStream(s, operation(http.MethodGet, "/v1/clones/{id}/logs", "clone-logs", "Read what a clone's server has written"), "200", "text/plain", s.logs)
	lease := operation(http.MethodGet, "/v1/leases/{id}", "hold-lease", "Hold a lease for as long as the connection is open")
	lease.Description = "The first line of the answer is a Lease: it is held. Empty lines follow. An ErrorBody as the last line says that the " +
		"lease has ended. An answer that breaks off says that the daemon stops, or is gone: the clones live on, and so does the lease " +
		"if it is taken again before clone.lease_grace is over, which begins when the daemon serves again. Until then try again, " +
		"also after a status of 500 or above; a status between 400 and 499 says that the lease is lost."
	handleStream(s, lease, "200", "application/x-ndjson", s.lease)
	exec := operation(http.MethodPost, "/v1/clones/{id}/exec", "exec", "Run a command in a clone")
	exec.Description = "Wants the headers Connection: Upgrade and Upgrade: " + api.ExecProtocol + ". After the answer 101 both sides " +
		"speak frames: one byte stream, four bytes length (big endian), payload. The client's first is stream 0, an ExecRequest. " +
		"Streams: 0 request, 1 stdin, 2 end of stdin, 3 size of the terminal (rows, columns; two bytes each), 4 stdout, 5 stderr, " +
		"6 exit code (four bytes), 7 Error. The daemon's last is 6 or 7."
	handleStream(s, exec, "101", "", s.exec)
	build := operation(http.MethodPost, "/v1/goldens", "build-golden", "Build a golden")
	build.Description = "The answer is a BuildEvent per line, while the body is still being sent. The last has type done or error. " +
		"A build that fails before its first event is answered by a status and an ErrorBody."
	handleStream(s, build, "200", "application/x-ndjson", s.build)

	doc := s.huma.OpenAPI()
	registry := doc.Components.Schemas
	registry.Schema(reflect.TypeFor[api.ExecRequest](), true, "")
	lines := func(t reflect.Type) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{"application/x-ndjson": {Schema: registry.Schema(t, true, "")}}
	}
	doc.Paths["/v1/leases/{id}"].Get.Responses["200"].Content = lines(reflect.TypeFor[api.Lease]())
	post := doc.Paths["/v1/goldens"].Post
	post.Responses["200"].Content = lines(reflect.TypeFor[api.BuildEvent]())
	post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {Schema: formSchema(registry)}}}
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
func (s *Server) logs(w http.ResponseWriter, r *http.Request, in *logsIn) {
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
func (s *Server) lease(w http.ResponseWriter, r *http.Request, in *leaseIn) {
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
