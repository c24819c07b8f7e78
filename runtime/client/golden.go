package client

import (
	"context"
	"net/url"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Goldens lists all versions of the golden name, or of all goldens if name is
// empty.
func (c *Client) Goldens(ctx context.Context, name string) ([]api.Golden, error) {
	query := url.Values{}
	if name != "" {
		query.Set("name", name)
	}
	return get[[]api.Golden](ctx, c, "/v1/goldens", query)
}

// Golden returns one golden; ref is "shop" for the current version, or "shop:3".
func (c *Client) Golden(ctx context.Context, ref string) (api.Golden, error) {
	return get[api.Golden](ctx, c, goldenPath(ref), nil)
}

// Promote makes ref ("shop:3") the current version of its name.
func (c *Client) Promote(ctx context.Context, ref string) (api.Golden, error) {
	return call[api.Golden](ctx, c, "POST", goldenPath(ref)+"/promote", nil, nil)
}

// Verify compares a golden with the digest of what was built; the error of one
// that has changed is api.CodeGoldenInvalid.
func (c *Client) Verify(ctx context.Context, ref string) (api.Golden, error) {
	return call[api.Golden](ctx, c, "POST", goldenPath(ref)+"/verify", nil, nil)
}

// Rollback makes the version before the current one of name current, and
// returns it.
func (c *Client) Rollback(ctx context.Context, name string) (api.Golden, error) {
	return call[api.Golden](ctx, c, "POST", goldenPath(name)+"/rollback", nil, nil)
}

// SetGoldenAccess says who may do what with all versions of name, and returns the current one.
func (c *Client) SetGoldenAccess(ctx context.Context, name string, req api.AccessRequest) (api.Golden, error) {
	return call[api.Golden](ctx, c, "POST", goldenPath(name)+"/access", nil, req)
}

// RemoveGolden removes one version ("shop:3"), or all of them ("shop").
func (c *Client) RemoveGolden(ctx context.Context, ref string) error {
	return c.callNoContent(ctx, "DELETE", goldenPath(ref), nil)
}

func goldenPath(ref string) string { return "/v1/goldens/" + url.PathEscape(ref) }
