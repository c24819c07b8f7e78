package main

import (
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) goldenAccessCommand() *cli.Command {
	out := newOutput("table", "json")
	var req api.AccessRequest
	protect := optional{check: isBool}
	return showCommand(a, out, &cli.Command{
		Name:      "access",
		Usage:     "show or set who may do what with a golden",
		ArgsUsage: "NAME",
		Description: `The mode is that of a file, for all versions of the name: r is to see and clone, w to
build further versions, promote, roll back, remove and set the pool. The owner gives the
mode and a group that he is in, administrators all. What is protected is not pruned.

   ctrsnap golden access shop
   ctrsnap golden access shop --mode 0640 --group ci
   ctrsnap golden access shop --owner cert:ann
   ctrsnap golden access shop --protect`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mode", Usage: "`MODE` in octal digits: 0600 is the owner's alone, 0644 for all to clone", Destination: &req.Mode},
			&cli.StringFlag{Name: "group", Usage: "`GROUP` of this host", Destination: &req.Group},
			&cli.StringFlag{Name: "owner", Usage: "`USER` of this host, or cert:NAME, a caller of others by that common name", Destination: &req.Owner},
			optionalFlag("protect", "keep all versions from being pruned, or not with `[=false]`", &protect),
		},
	}, func(ctx context.Context, d *client.Client, args []string) (api.Golden, error) {
		if protect.set {
			on := protect.on()
			req.Protected = &on
		}
		if req == (api.AccessRequest{}) {
			return client.Do(ctx, d, api.GetGolden, api.GoldenArgs{Ref: args[0]})
		}
		return client.Do(ctx, d, api.SetAccess, api.AccessArgs{Name: args[0], Body: req})
	}, func(w io.Writer, g api.Golden) error {
		protected := ""
		if g.Protected {
			protected = " protected"
		}
		_, err := fmt.Fprintf(w, "%s %s %s%s\n", g.Mode, g.Owner, g.Group, protected)
		return err
	})
}
