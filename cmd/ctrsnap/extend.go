package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) extendCommand() *cli.Command {
	out := newOutput("table", "json", "name")
	var ttl api.Duration
	var protect optional
	protect.check = isBool
	return answering(a, out, &cli.Command{
		Name:        "extend",
		Usage:       "let clones live for --ttl from now, or protect them, and print until when they live",
		ArgsUsage:   "ID…",
		Description: "With several the id comes before the time. --protect alone leaves the time as it is.\n\n   ctrsnap extend pr-42 --ttl 2h\n   ctrsnap extend pr-42 --protect",
		Flags: []cli.Flag{
			durationFlag("ttl", "`D` from now (90s, 30m, 2h); default CTRSNAP_TTL", &ttl),
			optionalFlag("protect", "have nothing but rm --force end it, or not with `[=false]`", &protect),
		},
	}, func(ctx context.Context, d *client.Client, ids []string) (found[api.Clone], error) {
		req := api.ExtendRequest{TTL: ttl}
		if protect.set {
			on := protect.on()
			req.Protect = &on
		} else {
			var err error
			if req.TTL, err = a.ttl(ttl); err != nil {
				return found[api.Clone]{}, err
			}
		}
		if req == (api.ExtendRequest{}) {
			return found[api.Clone]{}, usagef("usage: ctrsnap extend ID --ttl D").of("extend: --ttl is missing")
		}
		return getAll("extend", func(ctx context.Context, d *client.Client, id string) (api.Clone, error) {
			return client.Do(ctx, d, api.ExtendClone, api.ExtendArgs{ID: id, Body: req})
		})(ctx, d, ids)
	}, func(got found[api.Clone]) error {
		if out.format != "table" {
			return got.print(a.stdout, out, cloneListing, nil)
		}
		for _, c := range got.docs {
			until := "no end"
			if c.ExpiresAt != nil {
				until = c.ExpiresAt.UTC().Format(time.RFC3339)
			}
			switch {
			case !got.alone:
				fmt.Fprintln(a.stdout, c.ID, until)
			case c.ExpiresAt != nil:
				fmt.Fprintln(a.stdout, until)
			}
		}
		return got.err
	})
}
