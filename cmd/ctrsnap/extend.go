package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) extendCommand() *cli.Command {
	out := newOutput("table", "json")
	var ttl api.Duration
	var protect optional
	protect.check = isBool
	return showCommand(a, out, &cli.Command{
		Name:        "extend",
		Usage:       "let a clone live for --ttl from now, or protect it, and print until when it lives",
		ArgsUsage:   "ID",
		Description: "   ctrsnap extend pr-42 --ttl 2h\n   ctrsnap extend pr-42 --protect",
		Flags: []cli.Flag{
			durationFlag("ttl", "`D` from now (90s, 30m, 2h); default CTRSNAP_TTL", &ttl),
			optionalFlag("protect", "have nothing but rm --force end it, or not with `[=false]`", &protect),
		},
	}, func(ctx context.Context, d *client.Client, args []string) (api.Clone, error) {
		req := api.ExtendRequest{TTL: ttl}
		if protect.set {
			on := protect.on()
			req.Protect = &on
		} else {
			var err error
			if req.TTL, err = a.ttl(ttl); err != nil {
				return api.Clone{}, err
			}
		}
		if req == (api.ExtendRequest{}) {
			return api.Clone{}, usagef("usage: ctrsnap extend ID --ttl D").of("extend: --ttl is missing")
		}
		return client.Do(ctx, d, api.ExtendClone, api.ExtendArgs{ID: args[0], Body: req})
	}, func(w io.Writer, c api.Clone) error {
		if c.ExpiresAt == nil {
			return nil
		}
		_, err := fmt.Fprintln(w, c.ExpiresAt.UTC().Format(time.RFC3339))
		return err
	})
}
