package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (s *Server) cloneRoutes() {
	handle(s, api.CreateClones, s.createClones)
	handle(s, api.ListClones, s.listClones)
	handle(s, api.GetClone, func(ctx context.Context, who access.Caller, in *api.CloneArgs) (api.Clone, error) {
		return finishClone(s.clones.Get(ctx, who, in.ID))
	})
	handleEmpty(s, api.RemoveClone, func(ctx context.Context, who access.Caller, in *api.RemoveArgs) error {
		return s.clones.Remove(ctx, who, in.ID, in.Force)
	})
	handle(s, api.ExtendClone, func(ctx context.Context, who access.Caller, in *api.ExtendArgs) (api.Clone, error) {
		if in.Body == (api.ExtendRequest{}) {
			return api.Clone{}, usage(http.StatusBadRequest, "invalid request: ttl: expected it, or protect", "see /openapi.json")
		}
		return finishClone(s.clones.Extend(ctx, who, in.ID, in.Body))
	})
	handle(s, api.RestartClone, func(ctx context.Context, who access.Caller, in *api.CloneArgs) (api.Clone, error) {
		return finishClone(s.clones.Restart(ctx, who, in.ID))
	})
	handle(s, api.GetClient, func(ctx context.Context, who access.Caller, in *api.ClientArgs) (api.ClientRequest, error) {
		c, err := s.clones.Client(ctx, who, in.ID, in.Args)
		return api.ClientRequest{Args: list(c.Args), Env: list(c.Env)}, err
	})
}

func (s *Server) createClones(ctx context.Context, who access.Caller, in *api.CreateArgs) (api.CloneResponse, error) {
	resp, err := s.clones.Create(ctx, who, in.Body)
	resp.Schema, resp.Clones = api.Schema, finishClones(resp.Clones)
	return resp, err
}

func (s *Server) listClones(ctx context.Context, who access.Caller, in *api.ListClonesArgs) ([]api.Clone, error) {
	labels := map[string]string{}
	for _, l := range in.Labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, usage(http.StatusBadRequest, fmt.Sprintf("invalid request: query.label: %q", l), "use label=KEY=VALUE")
		}
		labels[k] = v
	}
	clones, err := s.clones.List(ctx, who, labels)
	return finishClones(clones), err
}

func finishClones(clones []api.Clone) []api.Clone {
	for i := range clones {
		clones[i], _ = finishClone(clones[i], nil)
	}
	return list(clones)
}

// finishClone fills what every document of a clone has.
func finishClone(c api.Clone, err error) (api.Clone, error) {
	c.Schema = api.Schema
	if c.URLs == nil {
		c.URLs = map[string]string{}
	}
	if c.Timings == nil {
		c.Timings = api.Timings{}
	}
	return c, err
}
