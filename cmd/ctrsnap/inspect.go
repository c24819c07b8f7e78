package main

import (
	"context"

	"github.com/urfave/cli/v3"
)

func (a *app) inspectCommand() *cli.Command {
	out := newOutput("json")
	return &cli.Command{
		Name:        "inspect",
		Usage:       "show all that is known of a clone",
		ArgsUsage:   "ID",
		Description: "ID here and in other commands is an id, a unique beginning of one, or a name.\n\n   ctrsnap inspect pr-42\n   ctrsnap inspect pr-42 --format '{{.host}}:{{.port}}'",
		Flags:       out.flags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := exactly(cmd, "ID")
			if err != nil {
				return err
			}
			if err := out.resolve(a.getenv("CTRSNAP_OUTPUT")); err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			c, err := d.CloneByID(ctx, args[0])
			if err != nil {
				return about(err, "inspect %s", args[0])
			}
			if out.format == "template" {
				return out.execute(a.stdout, c)
			}
			return printJSON(a.stdout, c)
		},
	}
}
