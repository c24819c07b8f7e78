package client

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// Pools lists the pools of clones that are made ahead.
func (c *Client) Pools(ctx context.Context) ([]api.Pool, error) {
	return get[[]api.Pool](ctx, c, "/v1/pools", nil)
}

// SetPool sets the size of a golden's pool.
func (c *Client) SetPool(ctx context.Context, golden string, req api.PoolRequest) (api.Pool, error) {
	return call[api.Pool](ctx, c, "POST", "/v1/pools/"+url.PathEscape(golden), nil, req)
}

type queueKey struct{}

// OnQueue returns a context that has Clone tell moved of its place in the
// queue, from 1, and the time that it may take. moved is called before Clone
// returns, from its goroutine.
func OnQueue(ctx context.Context, moved func(place int, estimate time.Duration)) context.Context {
	return context.WithValue(ctx, queueKey{}, moved)
}

// tellQueue reads a place in the queue from the header of an answer on the way.
func tellQueue(h http1.Header, moved func(place int, estimate time.Duration)) {
	place, estimate, _ := strings.Cut(h.Get(api.HeaderQueue), " ")
	n, err := strconv.Atoi(place)
	if err != nil {
		return // of something else
	}
	d, _ := time.ParseDuration(estimate)
	moved(n, d)
}
