package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client/http1"
)

// EventFilter chooses events; what is empty chooses all.
type EventFilter struct {
	Types  []string // types, or what they begin with up to the dot
	Clone  string   // id or name
	Golden string   // shop, or shop:3
	Since  uint64   // only after the event of this id
}

// Events hands what has happened lately to f, oldest first, and with follow what happens
// until ctx ends or f returns an error, which is returned.
func (c *Client) Events(ctx context.Context, filter EventFilter, follow bool, f func(api.Event) error) error {
	query := url.Values{"follow": {strconv.FormatBool(follow)}, "type": filter.Types}
	for k, v := range map[string]string{"clone": filter.Clone, "golden": filter.Golden} {
		if v != "" {
			query.Set(k, v)
		}
	}
	if filter.Since > 0 {
		query.Set("since", strconv.FormatUint(filter.Since, 10))
	}
	resp, err := c.send(ctx, "GET", "/v1/events", query, http1.Request{})
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

// Stats tells what clones use.
func (c *Client) Stats(ctx context.Context) (api.Stats, error) {
	return get[api.Stats](ctx, c, "/v1/stats", nil)
}

// Fix has the daemon mend what it can of what Doctor finds, and returns what is left.
func (c *Client) Fix(ctx context.Context) (api.Doctor, error) {
	return call[api.Doctor](ctx, c, "POST", "/v1/doctor/fix", nil, nil)
}
