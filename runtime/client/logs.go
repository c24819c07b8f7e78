package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// Logs writes what a clone's server has written to w, and with Follow also what comes, until the clone or ctx ends.
func (c *Client) Logs(ctx context.Context, args api.LogsArgs, w io.Writer) error {
	resp, err := open(ctx, c, api.ReadLogs, args, http1.Request{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return c.explain(ctx, fmt.Errorf("read log of clone %s: %w", args.ID, err))
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
