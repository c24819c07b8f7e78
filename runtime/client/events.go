package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// Events hands the events that args choose to f, oldest first: those of late, and with Follow what happens until ctx
// ends or f returns an error, which is returned.
func (c *Client) Events(ctx context.Context, args api.EventsArgs, f func(api.Event) error) error {
	resp, err := open(ctx, c, api.ReadEvents, args, http1.Request{})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return c.explain(ctx, fmt.Errorf("read events: %w", err))
		}
		var e api.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
}
