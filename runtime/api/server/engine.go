package server

import (
	"context"

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

func (s *Server) engineRoutes() {
	if s.engines == nil {
		return
	}
	handle(s, api.ListEngines, func(ctx context.Context, who access.Caller, _ *api.None) ([]api.Engine, error) {
		all, err := s.engines.Engines(ctx, who)
		for i := range all {
			all[i], _ = finishEngine(all[i], nil)
		}
		return list(all), err
	})
	handle(s, api.GetEngine, func(ctx context.Context, who access.Caller, in *api.EngineArgs) (api.Engine, error) {
		return finishEngine(s.engines.Engine(ctx, who, in.Name))
	})
	handle(s, api.AddEngine, func(ctx context.Context, who access.Caller, in *api.AddEngineArgs) (api.Engine, error) {
		return finishEngine(s.engines.AddEngine(ctx, who, in.Body))
	})
	handleEmpty(s, api.RemoveEngine, func(ctx context.Context, who access.Caller, in *api.EngineArgs) error {
		return s.engines.RemoveEngine(ctx, who, in.Name)
	})
}

func finishEngine(e api.Engine, err error) (api.Engine, error) {
	e.Schema, e.Scripts = api.Schema, list(e.Scripts)
	return e, err
}
