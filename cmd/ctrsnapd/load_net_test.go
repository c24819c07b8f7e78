package main_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

var ranges atomic.Int32

// newRange returns the beginning of addresses on this host that no other test has, as in 10.101.
func newRange() string { return fmt.Sprintf("10.%d", 100+ranges.Add(1)) }

// publish has a clone at a port of the host, which answers.
func (c *caller) publish(ctx context.Context) error {
	return c.clone(ctx, api.CloneRequest{Publish: []string{"127.0.0.1:0"}})
}

// attached has a clone with a further interface.
func (c *caller) attached(ctx context.Context) error {
	return c.clone(ctx, api.CloneRequest{Attach: []api.AttachRequest{c.link()}})
}

// link is one to the host alone, at an address of the caller's own.
func (c *caller) link() api.AttachRequest {
	return api.AttachRequest{Type: "ptp", IP: fmt.Sprintf("%s.%d.%d/30", c.addrs, c.number, 4*c.rand.IntN(60)+2)}
}

// interfaces gives a clone a further interface, and takes it away.
func (c *caller) interfaces(ctx context.Context) error {
	h := c.pick()
	got, err := client.Do(ctx, c.d.client, api.AttachInterface, api.AttachArgs{ID: h.ID, Body: c.link()})
	if err != nil {
		return err
	}
	return client.Tell(ctx, c.d.client, api.DetachInterface, api.DetachArgs{ID: h.ID, IfName: got.IfName})
}

// access changes who may use the caller's golden.
func (c *caller) access(ctx context.Context) error {
	_, err := client.Do(ctx, c.d.client, api.SetAccess, api.AccessArgs{Name: c.golden, Body: api.AccessRequest{Mode: []string{"0600", "0644"}[c.rand.IntN(2)]}})
	return err
}

// reachable says what is wrong with the ports of a clone that somebody holds.
func (h *held) reachable(got api.Clone) string {
	if strings.Join(got.Published, " ") != strings.Join(h.Published, " ") {
		return fmt.Sprintf("it is published at %v, and was at %v", got.Published, h.Published)
	}
	if len(h.Published) == 0 {
		return ""
	}
	token, err := tryQuery(h.URLs["published"], "SELECT token FROM owner")
	// A proxy that has ended is replaced after a second.
	for until := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(until); {
		<-time.After(100 * time.Millisecond)
		token, err = tryQuery(h.URLs["published"], "SELECT token FROM owner")
	}
	if err != nil {
		return fmt.Sprintf("at %s: %v", h.Published[0], err)
	}
	if token != h.token {
		return fmt.Sprintf("at %s it says %q, not %q", h.Published[0], token, h.token)
	}
	return ""
}
