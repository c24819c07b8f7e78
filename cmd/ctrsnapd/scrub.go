package main

import (
	"context"
	"os/user"
	"strconv"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/golden"
)

// How much of the machine the verification of goldens takes: a MiB, then a rest, and a longer
// one while clones are made that somebody waits for.
const (
	scrubRest     = 10 * time.Millisecond
	scrubBusyRest = time.Second
)

// scrub verifies goldens in the background until ctx ends.
func (d *daemon) scrub(ctx context.Context) {
	opts := golden.ScrubOpts{
		Every: time.Duration(d.cfg.Storage.Verify),
		Pace:  d.pace,
		Failed: func(g snapshot.Golden, err error) {
			d.log.Error("verify golden", "golden", g.Ref().String(), "error", err)
		},
	}
	if d.restarted {
		opts.Since = time.Now()
	}
	d.background.Go(func() { d.store.Scrub(ctx, opts) })
}

func (d *daemon) pace(ctx context.Context) error {
	rest := scrubRest
	if d.manager.Load().Active > 0 {
		rest += scrubBusyRest
	}
	select {
	case <-time.After(rest):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// marked tells that a golden was found to be damaged, or sound again, and has the pool follow.
func (d *daemon) marked(ctx context.Context, g snapshot.Golden) {
	e := api.Event{Type: api.EventGoldenSound, Golden: g.Ref().String(), Owner: strconv.Itoa(g.Access.Owner)}
	if u, err := user.LookupId(e.Owner); err == nil {
		e.Owner = u.Username
	}
	if err := g.Damaged(); err != nil {
		e.Type, e.Reason = api.EventGoldenDamaged, "its layer is not what was built"
		d.log.ErrorContext(ctx, "golden is damaged", "golden", g.Ref().String(), "error", err)
	}
	d.events.Emit(event.Event{Event: e, Access: &g.Access})
	if err := d.manager.RefreshPool(ctx); err != nil {
		d.log.ErrorContext(ctx, "refresh pool", "error", err)
	}
}

// checkGoldens looks at what is known of the goldens: it reads none of them.
func (d *daemon) checkGoldens(ctx context.Context) api.Check {
	c := api.Check{Name: "goldens", Status: "ok", Detail: "none is known to be damaged"}
	all, err := d.store.Goldens(ctx)
	if err != nil {
		c.Status, c.Detail = "error", err.Error()
		return c
	}
	for _, g := range all {
		if err := g.Damaged(); err != nil {
			c.Status, c.Detail, c.Why = "error", err.Error(), "clones of it are refused"
			c.Fix = "take another version, or build it anew; 'ctrsnap golden verify " + g.Ref().String() + "' looks again"
		}
	}
	return c
}
