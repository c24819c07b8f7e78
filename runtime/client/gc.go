package client

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// GC says what there is of clones and builds that nobody has, and has it removed if
// remove is set. Only administrators may.
func (c *Client) GC(ctx context.Context, remove bool) (api.GC, error) {
	if remove {
		return call[api.GC](ctx, c, "POST", "/v1/gc", nil, struct{}{})
	}
	return get[api.GC](ctx, c, "/v1/gc", nil)
}
