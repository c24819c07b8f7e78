package main

import (
	"context"
	"fmt"
	"slices"
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
	return &cli.Command{
		Name:        "extend",
		Usage:       "let a clone live for --ttl from now, or protect it, and print until when it lives",
		ArgsUsage:   "ID",
		Description: "   ctrsnap extend pr-42 --ttl 2h\n   ctrsnap extend pr-42 --protect",
		Flags: slices.Concat([]cli.Flag{
			durationFlag("ttl", "`D` from now (90s, 30m, 2h); default CTRSNAP_TTL", &ttl),
			optionalFlag("protect", "have nothing but rm --force end it, or not with `[=false]`", &protect),
		}, out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := exactly(cmd, "ID")
			if err != nil {
				return err
			}
			var req api.ExtendRequest
			if protect.set {
				on := protect.on()
				req.Protect = &on
			}
			if req.TTL = ttl; !protect.set {
				if req.TTL, err = a.ttl(ttl); err != nil {
					return err
				}
			}
			if req == (api.ExtendRequest{}) {
				return usagef("usage: ctrsnap extend ID --ttl D").of("extend: --ttl is missing")
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			c, err := client.Do(ctx, d, api.ExtendClone, api.ExtendArgs{ID: args[0], Body: req})
			if err != nil {
				return about(err, "extend %s", args[0])
			}
			return a.printExtended(out, c)
		},
	}
}

func (a *app) printExtended(out *output, c api.Clone) error {
	switch {
	case out.format == "json":
		return printJSON(a.stdout, c)
	case out.format == "template":
		return out.execute(a.stdout, c)
	case c.ExpiresAt != nil:
		fmt.Fprintln(a.stdout, c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return nil
}
