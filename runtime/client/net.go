package client

import (
	"context"
	"net/url"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Networks lists the networks that clones can be attached to by name.
func (c *Client) Networks(ctx context.Context) (api.Networks, error) {
	return get[api.Networks](ctx, c, "/v1/networks", nil)
}

// Interfaces lists the interfaces of a clone.
func (c *Client) Interfaces(ctx context.Context, id string) ([]api.Interface, error) {
	return get[[]api.Interface](ctx, c, clonePath(id)+"/interfaces", nil)
}

// Attach gives a clone a further interface.
func (c *Client) Attach(ctx context.Context, id string, req api.AttachRequest) (api.Attachment, error) {
	return call[api.Attachment](ctx, c, "POST", clonePath(id)+"/interfaces", nil, req)
}

// Detach takes one away that was attached.
func (c *Client) Detach(ctx context.Context, id, ifName string) error {
	return c.callNoContent(ctx, "DELETE", clonePath(id)+"/interfaces/"+url.PathEscape(ifName), nil)
}
