package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"
)

func (a *app) logsCommand() *cli.Command {
	var follow bool
	var tail int
	return &cli.Command{
		Name:        "logs",
		Usage:       "print what a clone's server has logged",
		ArgsUsage:   "ID",
		Description: "   ctrsnap logs pr-42 --tail 20",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until the clone ends", Destination: &follow},
			&cli.IntFlag{Name: "tail", Aliases: []string{"n"}, Usage: "only the last `N` lines", Value: -1, DefaultText: "all", Destination: &tail, Validator: notNegative},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := exactly(cmd, "ID")
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			return about(d.Logs(ctx, args[0], tail, follow, a.stdout), "logs %s", args[0])
		},
	}
}

func notNegative(n int) error {
	if n < 0 {
		return errors.New("want 0 or more")
	}
	return nil
}
