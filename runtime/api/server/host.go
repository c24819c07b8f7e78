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
			d := s.host.Doctor(ctx)
			d.Schema, d.Checks = api.Schema, list(d.Checks)
			return d, nil
		})
}

// list makes a JSON array of what may be nil.
func list[T any](l []T) []T {
	if l == nil {
		return []T{}
	}
	return l
}
