package client

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Pools lists the pools of clones that are made ahead.
func (c *Client) Pools(ctx context.Context) ([]api.Pool, error) {
	return get[[]api.Pool](ctx, c, "/v1/pools", nil)
}

// SetPool sets the size of a golden's pool.
func (c *Client) SetPool(ctx context.Context, golden string, req api.PoolRequest) (api.Pool, error) {
	return call[api.Pool](ctx, c, http.MethodPost, "/v1/pools/"+url.PathEscape(golden), nil, req)
}

type queueKey struct{}

// OnQueue returns a context that has Clone tell moved of its place in the
// queue, from 1, and the time that it may take. moved is called from another
// goroutine, not after Clone has returned with its answer.
func OnQueue(ctx context.Context, moved func(place int, estimate time.Duration)) context.Context {
	ctx = context.WithValue(ctx, queueKey{}, true)
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			place, estimate, _ := strings.Cut(h.Get(api.HeaderQueue), " ")
			n, err := strconv.Atoi(place)
			if err != nil {
				return nil // of something else
			}
			d, _ := time.ParseDuration(estimate)
			moved(n, d)
			return nil
		},
	})
}
