package main

import (
	"context"

	"github.com/urfave/cli/v3"
)

func (a *app) inspectCommand() *cli.Command {
	return inspectCommand(a, "ID", "inspect", daemon.CloneByID, &cli.Command{
		Name:        "inspect",
		Usage:       "show all that is known of a clone",
		Description: "ID here and in other commands is an id, a unique beginning of one, or a name.\n\n   ctrsnap inspect pr-42\n   ctrsnap inspect pr-42 --format '{{.host}}:{{.port}}'",
	})
}

// inspectCommand completes c, a command that shows one thing whole. verb is
// what errors call it.
func inspectCommand[T any](a *app, arg, verb string, get func(daemon, context.Context, string) (T, error), c *cli.Command) *cli.Command {
	out := newOutput("json")
	c.ArgsUsage, c.Flags = arg, out.flags()
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		args, err := exactly(cmd, arg)
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
		v, err := get(d, ctx, args[0])
		if err != nil {
			return about(err, verb+" %s", args[0])
		}
		if out.format == "template" {
			return out.execute(a.stdout, v)
		}
		return printJSON(a.stdout, v)
	}
	return c
}
