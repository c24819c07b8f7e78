package client

import (
	"context"
	"net/url"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Engines lists the engines.
func (c *Client) Engines(ctx context.Context) ([]api.Engine, error) {
	return get[[]api.Engine](ctx, c, "/v1/engines", nil)
}

// Engine returns one engine, with its description if it was added.
func (c *Client) Engine(ctx context.Context, name string) (api.Engine, error) {
	return get[api.Engine](ctx, c, "/v1/engines/"+url.PathEscape(name), nil)
}

// AddEngine adds an engine that a file describes, or replaces it.
func (c *Client) AddEngine(ctx context.Context, req api.EngineRequest) (api.Engine, error) {
	return call[api.Engine](ctx, c, "POST", "/v1/engines", nil, req)
}

// RemoveEngine removes an engine that was added.
func (c *Client) RemoveEngine(ctx context.Context, name string) error {
	return c.callNoContent(ctx, "DELETE", "/v1/engines/"+url.PathEscape(name), nil)
}
