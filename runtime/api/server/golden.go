package server

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (s *Server) goldenRoutes() {
	handle(s, api.ListGoldens, func(ctx context.Context, who access.Caller, in *api.ListGoldensArgs) ([]api.Golden, error) {
		goldens, err := s.goldens.List(ctx, who, in.Name)
		for i := range goldens {
			goldens[i].Schema = api.Schema
		}
		return list(goldens), err
	})
	handle(s, api.GetGolden, func(ctx context.Context, who access.Caller, in *api.GoldenArgs) (api.Golden, error) {
		return finishGolden(s.goldens.Get(ctx, who, in.Ref))
	})
	handle(s, api.PromoteGolden, func(ctx context.Context, who access.Caller, in *api.GoldenArgs) (api.Golden, error) {
		return finishGolden(s.goldens.Promote(ctx, who, in.Ref))
	})
	handle(s, api.VerifyGolden, func(ctx context.Context, who access.Caller, in *api.GoldenArgs) (api.Golden, error) {
		return finishGolden(s.goldens.Verify(ctx, who, in.Ref))
	})
	handle(s, api.RollbackGolden, func(ctx context.Context, who access.Caller, in *api.GoldenNameArgs) (api.Golden, error) {
		return finishGolden(s.goldens.Rollback(ctx, who, in.Name))
	})
	handle(s, api.SetAccess, func(ctx context.Context, who access.Caller, in *api.AccessArgs) (api.Golden, error) {
		return finishGolden(s.goldens.SetAccess(ctx, who, in.Name, in.Body))
	})
	handleEmpty(s, api.RemoveGolden, func(ctx context.Context, who access.Caller, in *api.GoldenArgs) error {
		return s.goldens.Remove(ctx, who, in.Ref)
	})
	handle(s, api.PruneGoldens, func(ctx context.Context, who access.Caller, in *api.PruneArgs) ([]api.Golden, error) {
		goldens, err := s.goldens.Prune(ctx, who, in.Body)
		return list(goldens), err
	})
	handleEmpty(s, api.AnswerBuild, func(ctx context.Context, who access.Caller, in *api.AnswerArgs) error {
		return s.goldens.Answer(ctx, who, in.ID, in.Body)
	})
}

func finishGolden(g api.Golden, err error) (api.Golden, error) {
	g.Schema = api.Schema
	return g, err
}
