package server

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (s *Server) poolRoutes() {
	handle(s, api.ListPools, func(ctx context.Context, who access.Caller, _ *api.None) ([]api.Pool, error) {
		pools, err := s.pools.Pools(ctx, who)
		for i := range pools {
			pools[i].Schema = api.Schema
		}
		return list(pools), err
	})
	handle(s, api.SetPool, func(ctx context.Context, who access.Caller, in *api.SetPoolArgs) (api.Pool, error) {
		p, err := s.pools.SetPool(ctx, who, in.Golden, in.Body)
		p.Schema = api.Schema
		return p, err
	})
}
