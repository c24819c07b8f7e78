package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
)

// Stats is the part of the daemon that knows what clones use.
type Stats interface {
	Stats(ctx context.Context, caller access.Caller) (api.Stats, error)
}

func (s *Server) eventRoutes() {
	if s.stats != nil {
		handle(s, api.GetStats, func(ctx context.Context, who access.Caller, _ *api.None) (api.Stats, error) {
			st, err := s.stats.Stats(ctx, who)
			st.Schema, st.Clones = api.Schema, finishClones(st.Clones)
			return st, err
		})
	}
	if s.metrics != nil {
		s.mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
			if !callOf(r.Context()).caller.IsAdmin() {
				s.refuse(r.Context(), w, &failure{api.ErrorBody{Error: &api.Error{Code: api.CodeNotAllowed, Message: "metrics are for administrators"}}, http.StatusForbidden})
				return
			}
			s.metrics.ServeHTTP(w, r)
		})
	}
}

// events writes an event a line.
func (s *Server) events(w http.ResponseWriter, r *http.Request, in *api.EventsArgs) {
	ctx, done := s.stream(r)
	defer done()
	if err := checkTypes(in.Types); err != nil {
		s.refuse(ctx, w, err)
		return
	}
	out := &flusher{w: w, contentType: "application/x-ndjson"}
	caller := callOf(ctx).caller
	for last := in.Since; ; {
		list, more := s.hub.Since(last)
		for _, e := range list {
			last = e.ID
			if e.VisibleTo(caller) && wanted(in, e) && writeJSON(out, e.Event) != nil {
				return
			}
		}
		if !out.begun {
			_, _ = out.Write(nil)
		}
		if !in.Follow {
			return
		}
		select {
		case <-more: // never, where nobody takes events
		case <-ctx.Done():
			return
		}
	}
}

// checkTypes refuses types that no event has: they would be waited for in vain.
func checkTypes(types []string) error {
	for _, asked := range types {
		if !slices.ContainsFunc(api.EventTypes, func(t api.EventType) bool { return asked == string(t) || asked == kindOf(t) }) {
			names := make([]string, len(api.EventTypes))
			for i, t := range api.EventTypes {
				names[i] = string(t)
			}
			return usage(http.StatusBadRequest, fmt.Sprintf("unknown type of events %.64q", asked), "one of "+strings.Join(names, " ")+", or what one of them begins with")
		}
	}
	return nil
}

// kindOf returns what a type is about: clone of clone.created.
func kindOf(t api.EventType) string {
	kind, _, _ := strings.Cut(string(t), ".")
	return kind
}

func wanted(in *api.EventsArgs, e event.Event) bool {
	kind := kindOf(e.Type)
	name, _, _ := strings.Cut(e.Golden, ":")
	return (len(in.Types) == 0 || slices.Contains(in.Types, string(e.Type)) || slices.Contains(in.Types, kind)) &&
		(in.Clone == "" || in.Clone == e.Clone || in.Clone == e.Name) &&
		(in.Golden == "" || in.Golden == e.Golden || in.Golden == name)
}

// maxLoggedPath is how many bytes of a path are logged: no name that there is makes a longer one.
const maxLoggedPath = 256

// loggedPath is what logs say of a request's path. Whoever asks chooses its length: a megabyte in each
// request would wash the log of what matters.
func loggedPath(r *http.Request) string {
	p := r.URL.Path
	if len(p) <= maxLoggedPath {
		return p
	}
	return fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(p[:maxLoggedPath], "?"), len(p))
}

// auditRequest notes who wanted to change what, and how that ended. Bodies and queries, which may
// hold secrets, are not in it.
func (s *Server) auditRequest(r *http.Request, c call, status int) {
	if s.auditLog == nil || r.Method == http.MethodGet && status != http.StatusForbidden {
		return
	}
	s.auditLog.InfoContext(r.Context(), "audit", "request", c.id, "user", c.caller.Name, "uid", c.caller.UID(), "pid", c.caller.PID,
		"remote", c.caller.Remote, "method", r.Method, "path", loggedPath(r), "status", status)
}
