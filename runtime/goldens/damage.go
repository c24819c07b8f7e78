package goldens

import (
	"context"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// How much of the machine the verification of goldens takes: a MiB, then a rest, and a longer
// one while clones are made that somebody waits for.
const (
	scrubRest     = 10 * time.Millisecond
	scrubBusyRest = time.Second
)

// Scrub says how goldens are verified in the background: each once in every, with rests that are longer while busy
// says so.
func (g *Goldens) Scrub(every time.Duration, busy func() bool) snapshot.ScrubOpts {
	return snapshot.ScrubOpts{
		Every: every,
		Pace: func(ctx context.Context) error {
			rest := scrubRest
			if busy() {
				rest += scrubBusyRest
			}
			select {
			case <-time.After(rest):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
		Failed: func(one snapshot.Golden, err error) {
			g.opts.Log.Error("verify golden", "golden", one.Ref().String(), "error", err)
		},
	}
}

// Marked is told that a golden was found to be damaged, or sound again.
func (g *Goldens) Marked(ctx context.Context, marked snapshot.Golden) {
	t, reason := api.EventGoldenSound, ""
	if err := marked.Damaged(); err != nil {
		t, reason = api.EventGoldenDamaged, "its layer is not what was built"
		g.opts.Log.ErrorContext(ctx, "golden is damaged", "golden", marked.Ref().String(), "error", err)
	}
	g.changed(ctx, access.Daemon, t, marked, reason)
}

// Check looks at what is known of the goldens: it reads none of them.
func (g *Goldens) Check(ctx context.Context) api.Check {
	c := api.Check{Name: "goldens", Status: "ok", Detail: "none is known to be damaged"}
	all, err := g.opts.Store.Goldens(ctx)
	if err != nil {
		c.Status, c.Detail = "error", err.Error()
		return c
	}
	for _, one := range all {
		if err := one.Damaged(); err != nil {
			c.Status, c.Detail, c.Why = "error", err.Error(), "clones of it are refused"
			c.Fix = "take another version, or build it anew; 'ctrsnap golden verify " + one.Ref().String() + "' looks again"
		}
	}
	return c
}
