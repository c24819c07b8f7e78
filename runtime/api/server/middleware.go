package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"path"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

type callKey struct{}

// call is one request.
type call struct {
	id     string
	caller access.Caller
	err    error // why the caller is not known
}

// callOf returns the request that ctx is of.
func callOf(ctx context.Context) call {
	c, _ := ctx.Value(callKey{}).(call)
	return c
}

// observe gives each request an id, logs it, and survives its panics. Queries
// and bodies are not logged: they may hold secrets.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.active.Add(1)
		defer s.active.Done()
		c := call{id: rand.Text()[:10]}
		c.caller, c.err = s.caller(r.Context())
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		defer func() {
			s.log.InfoContext(r.Context(), "request", "request", c.id, "method", r.Method, "path", loggedPath(r),
				"status", rec.status, "ms", float64(time.Since(start).Microseconds())/1000,
				"caller", c.caller.Name, "pid", c.caller.PID)
			s.auditRequest(r, c, rec.status)
		}()
		defer s.survive(r, rec)
		next.ServeHTTP(rec, r)
	})
}

// survive turns a panic into an answer, or cuts an answer that has begun.
func (s *Server) survive(r *http.Request, w *recorder) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.log.ErrorContext(r.Context(), "panic", "request", callOf(r.Context()).id, "panic", p, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	s.refuse(r.Context(), w, errors.New("internal error"))
}

// negotiate refuses clients that speak another protocol, or that may not be let in. A
// request that does not say, as curl's, is taken.
func (s *Server) negotiate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.HeaderProtocol, strconv.Itoa(api.Protocol))
		if err := callOf(r.Context()).err; err != nil {
			s.refuse(r.Context(), w, err)
			return
		}
		if f := checkProtocol(r.Header.Get(api.HeaderProtocol)); f != nil {
			s.refuse(r.Context(), w, f)
			return
		}
		next.ServeHTTP(w, withProgress(w, r))
	})
}

func checkProtocol(header string) error {
	if header == "" {
		return nil
	}
	v, err := strconv.Atoi(header)
	if err != nil {
		return usage(http.StatusBadRequest, fmt.Sprintf("invalid header %s %q", api.HeaderProtocol, header), "send a number, or leave it out")
	}
	message := fmt.Sprintf("client speaks protocol %d, daemon understands %d to %d", v, api.MinProtocol, api.Protocol)
	switch {
	case v > api.Protocol:
		return mismatch(message, "ctrsnap is newer than ctrsnapd: upgrade ctrsnapd")
	case v < api.MinProtocol:
		return mismatch(message, "ctrsnap is older than ctrsnapd: upgrade ctrsnap")
	}
	return nil
}

func mismatch(message, hint string) error {
	f := usage(http.StatusBadRequest, message, hint)
	f.ErrorBody.Error.Code = api.CodeGeneral // not what the person who typed it did
	return f
}

// route passes requests to mux, and answers those that it has no handler for
// as we answer errors.
func (s *Server) route(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := r.URL.EscapedPath(); p != path.Clean("/"+p) {
			// The mux would redirect to another path than was meant.
			s.refuse(r.Context(), w, usage(http.StatusBadRequest, fmt.Sprintf("invalid path %q", p), "names are not empty, '.' or '..'"))
			return
		}
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &probe{header: http.Header{}}
		h.ServeHTTP(probe, r)
		if allow := probe.header.Get("Allow"); probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", allow)
			s.refuse(r.Context(), w, usage(probe.status, fmt.Sprintf("method %s not allowed for %s", r.Method, loggedPath(r)), "use "+strings.ReplaceAll(allow, ", ", " or ")))
			return
		}
		f := usage(http.StatusNotFound, "no such path "+loggedPath(r), "see /openapi.json")
		f.ErrorBody.Error.Code = api.CodeNotFound
		s.refuse(r.Context(), w, f)
	})
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= http.StatusOK { // what is below comes ahead of the answer
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// probe takes an answer that nobody gets.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
