package server

import (
	"context"
	"net/http"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Engines is the part of the daemon that knows the engines. Who may change them is
// its affair.
type Engines interface {
	Engines(ctx context.Context, caller access.Caller) ([]api.Engine, error)
	Engine(ctx context.Context, caller access.Caller, name string) (api.Engine, error)
	AddEngine(ctx context.Context, caller access.Caller, req api.EngineRequest) (api.Engine, error)
	RemoveEngine(ctx context.Context, caller access.Caller, name string) error
}

type engineIn struct {
	Name string `path:"name" example:"mariadb"`
}

type addEngineIn struct{ Body api.EngineRequest }

func (s *Server) engineRoutes() {
	if s.engines == nil {
		return
	}
	handle(s, operation(http.MethodGet, "/v1/engines", "list-engines", "List the engines"),
		func(ctx context.Context, _ *struct{}) ([]api.Engine, error) {
			all, err := s.engines.Engines(ctx, callOf(ctx).caller)
			for i := range all {
				all[i] = finishEngine(all[i])
			}
			return list(all), err
		})
	handle(s, operation(http.MethodGet, "/v1/engines/{name}", "get-engine", "Show an engine"),
		func(ctx context.Context, in *engineIn) (api.Engine, error) {
			e, err := s.engines.Engine(ctx, callOf(ctx).caller, in.Name)
			return finishEngine(e), err
		})
	handle(s, operation(http.MethodPost, "/v1/engines", "add-engine", "Add an engine that a file describes, or replace it"),
		func(ctx context.Context, in *addEngineIn) (api.Engine, error) {
			e, err := s.engines.AddEngine(ctx, callOf(ctx).caller, in.Body)
			return finishEngine(e), err
		})
	handleEmpty(s, operation(http.MethodDelete, "/v1/engines/{name}", "remove-engine", "Remove an engine that was added"),
		func(ctx context.Context, in *engineIn) error {
			return s.engines.RemoveEngine(ctx, callOf(ctx).caller, in.Name)
		})
}

func finishEngine(e api.Engine) api.Engine {
	e.Schema, e.Scripts = api.Schema, list(e.Scripts)
	return e
}
