package server

import (
	"context"

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

func (s *Server) netRoutes() {
	if s.networks != nil {
		handle(s, api.ListNetworks, func(ctx context.Context, who access.Caller, _ *api.None) (api.Networks, error) {
			n, err := s.networks.Networks(ctx, who)
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
	handle(s, api.ListInterfaces, func(ctx context.Context, who access.Caller, in *api.CloneArgs) ([]api.Interface, error) {
		all, err := s.interfaces.Interfaces(ctx, who, in.ID)
		for i := range all {
			all[i].Schema, all[i].Addresses = api.Schema, list(all[i].Addresses)
		}
		return list(all), err
	})
	handle(s, api.AttachInterface, func(ctx context.Context, who access.Caller, in *api.AttachArgs) (api.Attachment, error) {
		a, err := s.interfaces.Attach(ctx, who, in.ID, in.Body)
		a.Schema = api.Schema
		return a, err
	})
	handleEmpty(s, api.DetachInterface, func(ctx context.Context, who access.Caller, in *api.DetachArgs) error {
		return s.interfaces.Detach(ctx, who, in.ID, in.IfName)
	})
}
