package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (a *app) logsCommand() *cli.Command {
	var which api.LogsArgs
	return &cli.Command{
		Name:        "logs",
		Usage:       "print what a clone's server has logged",
		ArgsUsage:   "ID",
		Description: "   ctrsnap logs pr-42 --tail 20",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the clone ends", Destination: &which.Follow},
			&cli.IntFlag{Name: "tail", Aliases: []string{"n"}, Usage: "only the last `N` lines", Value: -1, DefaultText: "all", Destination: &which.Tail, Validator: notNegative},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			which.ID = args[0]
			return about(d.Logs(ctx, which, a.stdout), "logs %s", args[0])
		},
	}
}

func notNegative(n int) error {
	if n < 0 {
		return errors.New("want 0 or more")
	}
	return nil
}
