package server

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (s *Server) hostRoutes() {
	handle(s, api.GetVersion, func(context.Context, access.Caller, *api.None) (api.Version, error) {
		v := s.host.Version()
		v.Schema, v.Protocol, v.MinProtocol = api.Schema, api.Protocol, api.MinProtocol
		return v, nil
	})
	handle(s, api.GetDoctor, func(ctx context.Context, who access.Caller, _ *api.None) (api.Doctor, error) {
		d, err := s.host.Doctor(ctx, who)
		d.Schema, d.Checks = api.Schema, list(d.Checks)
		return d, err
	})
	handle(s, api.FixHost, func(ctx context.Context, who access.Caller, _ *api.None) (api.Doctor, error) {
		d, err := s.host.Fix(ctx, who)
		d.Schema, d.Checks = api.Schema, list(d.Checks)
		return d, err
	})
	handle(s, api.ShowGarbage, s.gc(false))
	handle(s, api.CollectGarbage, s.gc(true))
}

func (s *Server) gc(remove bool) func(context.Context, access.Caller, *api.None) (api.GC, error) {
	return func(ctx context.Context, who access.Caller, _ *api.None) (api.GC, error) {
		g, err := s.host.GC(ctx, who, remove)
		g.Schema = api.Schema
		return g, err
	}
}

// list makes a JSON array of what may be nil.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
