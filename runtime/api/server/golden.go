package server

import (
	"context"
	"net/http"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

type listGoldensIn struct {
	Name string `query:"name" doc:"only versions of this golden"`
}

type goldenIn struct {
	Ref string `path:"ref" doc:"name, or name:version" example:"shop:3"`
}

type goldenNameIn struct {
	Name string `path:"name" example:"shop"`
}

type accessIn struct {
	Name string `path:"name" example:"shop"`
	Body api.AccessRequest
}

type answerIn struct {
	ID   string `path:"id" doc:"of the build, from its first event"`
	Body api.HostResult
}

func (s *Server) goldenRoutes() {
	handle(s, operation(http.MethodGet, "/v1/goldens", "list-goldens", "List goldens"),
		func(ctx context.Context, in *listGoldensIn) ([]api.Golden, error) {
			goldens, err := s.goldens.List(ctx, callOf(ctx).caller, in.Name)
			for i := range goldens {
				goldens[i] = finishGolden(goldens[i])
			}
			return list(goldens), err
		})
	handle(s, operation(http.MethodGet, "/v1/goldens/{ref}", "get-golden", "Show a golden"),
		func(ctx context.Context, in *goldenIn) (api.Golden, error) {
			g, err := s.goldens.Get(ctx, callOf(ctx).caller, in.Ref)
			return finishGolden(g), err
		})
	handle(s, operation(http.MethodPost, "/v1/goldens/{ref}/promote", "promote-golden", "Make a version the current one"),
		func(ctx context.Context, in *goldenIn) (api.Golden, error) {
			g, err := s.goldens.Promote(ctx, callOf(ctx).caller, in.Ref)
			return finishGolden(g), err
		})
	handle(s, operation(http.MethodPost, "/v1/goldens/{ref}/verify", "verify-golden", "Compare a golden with the digest of what was built"),
		func(ctx context.Context, in *goldenIn) (api.Golden, error) {
			g, err := s.goldens.Verify(ctx, callOf(ctx).caller, in.Ref)
			return finishGolden(g), err
		})
	handle(s, operation(http.MethodPost, "/v1/goldens/{name}/rollback", "rollback-golden", "Make the version before the current one current"),
		func(ctx context.Context, in *goldenNameIn) (api.Golden, error) {
			g, err := s.goldens.Rollback(ctx, callOf(ctx).caller, in.Name)
			return finishGolden(g), err
		})
	handle(s, operation(http.MethodPost, "/v1/goldens/{name}/access", "set-golden-access", "Say who may do what with a golden"),
		func(ctx context.Context, in *accessIn) (api.Golden, error) {
			g, err := s.goldens.SetAccess(ctx, callOf(ctx).caller, in.Name, in.Body)
			return finishGolden(g), err
		})
	handleEmpty(s, operation(http.MethodDelete, "/v1/goldens/{ref}", "remove-golden", "Remove a version of a golden, or all"),
		func(ctx context.Context, in *goldenIn) error {
			return s.goldens.Remove(ctx, callOf(ctx).caller, in.Ref)
		})
	handleEmpty(s, operation(http.MethodPost, "/v1/builds/{id}/exec", "answer-build", "Tell a build how a command ended that it asked for"),
		func(ctx context.Context, in *answerIn) error {
			return s.goldens.Answer(ctx, callOf(ctx).caller, in.ID, in.Body)
		})
}

func finishGolden(g api.Golden) api.Golden {
	g.Schema = api.Schema
	return g
}
