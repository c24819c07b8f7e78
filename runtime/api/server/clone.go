package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

type createClonesIn struct {
	Body api.CloneRequest
}

type listClonesIn struct {
	Labels []string `query:"label,explode" doc:"key=value; only clones that have all of them"`
}

type cloneIn struct {
	ID string `path:"id" doc:"id, unique prefix of one, or name"`
}

type removeIn struct {
	ID    string `path:"id" doc:"id, unique prefix of one, or name"`
	Force bool   `query:"force" doc:"also one that is protected"`
}

type extendIn struct {
	ID   string `path:"id" doc:"id, unique prefix of one, or name"`
	Body api.ExtendRequest
}

type clientIn struct {
	ID   string   `path:"id" doc:"id, unique prefix of one, or name"`
	Args []string `query:"arg,explode" doc:"arguments of the client, in order"`
}

func (s *Server) cloneRoutes() {
	handle(s, operation(http.MethodPost, "/v1/clones", "create-clones", "Make clones of a golden"), s.createClones)
	handle(s, operation(http.MethodGet, "/v1/clones", "list-clones", "List clones"), s.listClones)
	handle(s, operation(http.MethodGet, "/v1/clones/{id}", "get-clone", "Show a clone"),
		func(ctx context.Context, in *cloneIn) (api.Clone, error) {
			c, err := s.clones.Get(ctx, callOf(ctx).caller, in.ID)
			return finishClone(c), err
		})
	handleEmpty(s, operation(http.MethodDelete, "/v1/clones/{id}", "remove-clone", "End a clone"),
		func(ctx context.Context, in *removeIn) error {
			return s.clones.Remove(ctx, callOf(ctx).caller, in.ID, in.Force)
		})
	handle(s, operation(http.MethodPost, "/v1/clones/{id}/extend", "extend-clone", "Let a clone live longer"),
		func(ctx context.Context, in *extendIn) (api.Clone, error) {
			if in.Body == (api.ExtendRequest{}) {
				return api.Clone{}, usage(http.StatusBadRequest, "invalid request: ttl: expected it, or protect", "see /openapi.json")
			}
			c, err := s.clones.Extend(ctx, callOf(ctx).caller, in.ID, in.Body)
			return finishClone(c), err
		})
	handle(s, operation(http.MethodGet, "/v1/clones/{id}/client", "get-client", "Give the command that connects an interactive client"),
		func(ctx context.Context, in *clientIn) (api.ClientRequest, error) {
			c, err := s.clones.Client(ctx, callOf(ctx).caller, in.ID, in.Args)
			return api.ClientRequest{Args: list(c.Args), Env: list(c.Env)}, err
		})
}

func (s *Server) createClones(ctx context.Context, in *createClonesIn) (api.CloneResponse, error) {
	resp, err := s.clones.Create(ctx, callOf(ctx).caller, in.Body)
	resp.Schema, resp.Clones = api.Schema, finishClones(resp.Clones)
	return resp, err
}

func (s *Server) listClones(ctx context.Context, in *listClonesIn) ([]api.Clone, error) {
	labels := map[string]string{}
	for _, l := range in.Labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, usage(http.StatusBadRequest, fmt.Sprintf("invalid request: query.label: %q", l), "use label=KEY=VALUE")
		}
		labels[k] = v
	}
	clones, err := s.clones.List(ctx, callOf(ctx).caller, labels)
	return finishClones(clones), err
}

func finishClones(clones []api.Clone) []api.Clone {
	for i := range clones {
		clones[i] = finishClone(clones[i])
	}
	return list(clones)
}

// finishClone fills what every document of a clone has.
func finishClone(c api.Clone) api.Clone {
	c.Schema = api.Schema
	if c.URLs == nil {
		c.URLs = map[string]string{}
	}
	if c.Timings == nil {
		c.Timings = api.Timings{}
	}
	return c
}
