package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// Clone makes clones and returns when all of them answer, or none is left.
func (c *Client) Clone(ctx context.Context, req api.CloneRequest) (api.CloneResponse, error) {
	return call[api.CloneResponse](ctx, c, "POST", "/v1/clones", nil, req)
}

// Clones lists the clones that have all the given labels.
func (c *Client) Clones(ctx context.Context, labels map[string]string) ([]api.Clone, error) {
	query := url.Values{}
	for k, v := range labels {
		query.Add("label", k+"="+v)
	}
	slices.Sort(query["label"])
	return get[[]api.Clone](ctx, c, "/v1/clones", query)
}

// CloneByID returns one clone. Here and below, id is an id, a unique prefix of
// one, or a name.
func (c *Client) CloneByID(ctx context.Context, id string) (api.Clone, error) {
	return get[api.Clone](ctx, c, clonePath(id), nil)
}

// RemoveClone ends a clone.
func (c *Client) RemoveClone(ctx context.Context, id string) error {
	return c.callNoContent(ctx, "DELETE", clonePath(id), nil)
}

// ForceRemoveClone ends a clone, also one that is protected.
func (c *Client) ForceRemoveClone(ctx context.Context, id string) error {
	return c.callNoContent(ctx, "DELETE", clonePath(id)+"?force=true", nil)
}

// UpdateClone moves the end of a clone's life, protects it or does not any more.
func (c *Client) UpdateClone(ctx context.Context, id string, req api.ExtendRequest) (api.Clone, error) {
	return call[api.Clone](ctx, c, "POST", clonePath(id)+"/extend", nil, req)
}

// ExtendClone moves the end of a clone's life to ttl from now.
func (c *Client) ExtendClone(ctx context.Context, id string, ttl time.Duration) (api.Clone, error) {
	return call[api.Clone](ctx, c, "POST", clonePath(id)+"/extend", nil, api.ExtendRequest{TTL: api.Duration(ttl)})
}

// Logs writes the last tail lines of the server's output to w, all of them if
// tail is negative; with follow also what comes, until the clone or ctx ends.
func (c *Client) Logs(ctx context.Context, id string, tail int, follow bool, w io.Writer) error {
	query := url.Values{"follow": {strconv.FormatBool(follow)}}
	if tail >= 0 {
		query.Set("tail", strconv.Itoa(tail))
	}
	resp, err := c.send(ctx, "GET", clonePath(id)+"/logs", query, http1.Request{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return c.explain(ctx, fmt.Errorf("read log of clone %s: %w", id, err))
	}
	return readTrailer(resp)
}

// readTrailer returns the error of an answer that had begun before it happened.
func readTrailer(resp *http1.Response) error {
	var body api.ErrorBody
	if json.Unmarshal([]byte(resp.Trailer.Get(api.TrailerError)), &body) != nil || body.Error == nil {
		return nil
	}
	return body.Error
}

// ClientCommand returns the command that, run in the clone by Exec, connects
// the engine's interactive client to its server.
func (c *Client) ClientCommand(ctx context.Context, id string, args []string) (api.ClientRequest, error) {
	return get[api.ClientRequest](ctx, c, clonePath(id)+"/client", url.Values{"arg": args})
}

func clonePath(id string) string { return "/v1/clones/" + url.PathEscape(id) }
