package server

import (
	"context"
	"net/http"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (s *Server) hostRoutes() {
	handle(s, operation(http.MethodGet, "/v1/version", "version", "Say who the daemon is"),
		func(context.Context, *struct{}) (api.Version, error) {
			v := s.host.Version()
			v.Schema, v.Protocol, v.MinProtocol = api.Schema, api.Protocol, api.MinProtocol
			return v, nil
		})
	handle(s, operation(http.MethodGet, "/v1/doctor", "doctor", "Check the daemon's host"),
		func(ctx context.Context, _ *struct{}) (api.Doctor, error) {
			d, err := s.host.Doctor(ctx, callOf(ctx).caller)
			d.Schema, d.Checks = api.Schema, list(d.Checks)
			return d, err
		})
	handle(s, operation(http.MethodPost, "/v1/doctor/fix", "fix", "Mend what can be of what the doctor finds"),
		func(ctx context.Context, _ *struct{}) (api.Doctor, error) {
			d, err := s.host.Fix(ctx, callOf(ctx).caller)
			d.Schema, d.Checks = api.Schema, list(d.Checks)
			return d, err
		})
	handle(s, operation(http.MethodGet, "/v1/gc", "show-garbage", "Show what there is of clones and builds, and what of it nobody has; for administrators"),
		func(ctx context.Context, _ *struct{}) (api.GC, error) { return s.gc(ctx, false) })
	handle(s, operation(http.MethodPost, "/v1/gc", "collect-garbage", "Remove what nobody has; for administrators"),
		func(ctx context.Context, _ *struct{}) (api.GC, error) { return s.gc(ctx, true) })
}

func (s *Server) gc(ctx context.Context, remove bool) (api.GC, error) {
	g, err := s.host.GC(ctx, callOf(ctx).caller, remove)
	g.Schema = api.Schema
	return g, err
}

// list makes a JSON array of what may be nil.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
