package server

import (
	"context"
	"net/http"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

type setPoolIn struct {
	Golden string `path:"golden" doc:"name of the golden" example:"shop"`
	Body   api.PoolRequest
}

func (s *Server) poolRoutes() {
	handle(s, operation(http.MethodGet, "/v1/pools", "list-pools", "List the pools of clones that are made ahead"),
		func(ctx context.Context, _ *struct{}) ([]api.Pool, error) {
			pools, err := s.pools.Pools(ctx, callOf(ctx).caller)
			for i := range pools {
				pools[i].Schema = api.Schema
			}
			return list(pools), err
		})
	handle(s, operation(http.MethodPost, "/v1/pools/{golden}", "set-pool", "Set how many clones of a golden are kept ahead"),
		func(ctx context.Context, in *setPoolIn) (api.Pool, error) {
			p, err := s.pools.SetPool(ctx, callOf(ctx).caller, in.Golden, in.Body)
			p.Schema = api.Schema
			return p, err
		})
}
