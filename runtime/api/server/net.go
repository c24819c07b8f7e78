package server

import (
	"context"
	"net/http"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Interfaces is the part of the daemon that gives clones further interfaces.
// Who may do so is its affair.
type Interfaces interface {
	Attach(ctx context.Context, caller access.Caller, id string, req api.AttachRequest) (api.Attachment, error)
	Detach(ctx context.Context, caller access.Caller, id, ifName string) error
	Interfaces(ctx context.Context, caller access.Caller, id string) ([]api.Interface, error)
}

// Networks is the part of the daemon that knows the networks by name.
type Networks interface {
	Networks(ctx context.Context, caller access.Caller) (api.Networks, error)
}

type attachIn struct {
	ID   string `path:"id" doc:"id, unique prefix of one, or name"`
	Body api.AttachRequest
}

type detachIn struct {
	ID     string `path:"id" doc:"id, unique prefix of one, or name"`
	IfName string `path:"ifname" doc:"name of the interface in the clone"`
}

func (s *Server) netRoutes() {
	if s.networks != nil {
		handle(s, operation(http.MethodGet, "/v1/networks", "list-networks", "List the networks that clones can be attached to"),
			func(ctx context.Context, _ *struct{}) (api.Networks, error) {
				n, err := s.networks.Networks(ctx, callOf(ctx).caller)
				n.Schema, n.Networks = api.Schema, list(n.Networks)
				for i := range n.Networks {
					n.Networks[i].Schema = api.Schema
				}
				return n, err
			})
	}
	if s.interfaces == nil {
		return
	}
	handle(s, operation(http.MethodGet, "/v1/clones/{id}/interfaces", "list-interfaces", "List the interfaces of a clone"),
		func(ctx context.Context, in *cloneIn) ([]api.Interface, error) {
			all, err := s.interfaces.Interfaces(ctx, callOf(ctx).caller, in.ID)
			for i := range all {
				all[i].Schema, all[i].Addresses = api.Schema, list(all[i].Addresses)
			}
			return list(all), err
		})
	handle(s, operation(http.MethodPost, "/v1/clones/{id}/interfaces", "attach-interface", "Attach a clone to a network of the host"),
		func(ctx context.Context, in *attachIn) (api.Attachment, error) {
			a, err := s.interfaces.Attach(ctx, callOf(ctx).caller, in.ID, in.Body)
			a.Schema = api.Schema
			return a, err
		})
	handleEmpty(s, operation(http.MethodDelete, "/v1/clones/{id}/interfaces/{ifname}", "detach-interface", "Take an interface away that was attached"),
		func(ctx context.Context, in *detachIn) error {
			return s.interfaces.Detach(ctx, callOf(ctx).caller, in.ID, in.IfName)
		})
}
