package main

import (
	"context"
	"errors"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) rmCommand() *cli.Command {
	var all, force bool
	var labels pairs
	return &cli.Command{
		Name:        "rm",
		Aliases:     []string{"remove"},
		Usage:       "remove clones and print what was removed",
		ArgsUsage:   "ID…",
		Description: "Removes all that it can and reports the others.\n\n   ctrsnap rm pr-42\n   ctrsnap rm --label job=42\n   ctrsnap rm --all",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "all clones", Destination: &all},
			pairsFlag("label", "all clones with the label `K=V` (repeatable)", &labels, "l"),
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "remove protected clones, too; one that does not exist is no error", Destination: &force},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			ids := cmd.Args().Slice()
			chosen := all || len(labels) > 0
			if chosen && len(ids) > 0 {
				return usagef("use one of them").of("rm: IDs and --all or --label exclude each other")
			}
			if !chosen && len(ids) == 0 {
				return wrongArgs(cmd, "ID", true)
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			if chosen {
				if ids, err = idsOf(ctx, d, labels); err != nil {
					return about(err, "rm")
				}
			}
			return a.each(ids, func(id string) error {
				err := client.Tell(ctx, d, api.RemoveClone, api.RemoveArgs{ID: id, Force: force})
				if notFound(err) && (force || chosen) { // gone by itself since it was listed
					return nil
				}
				return about(err, "rm %s", id)
			})
		},
	}
}

func idsOf(ctx context.Context, d *client.Client, labels pairs) ([]string, error) {
	list, err := clonesWith(ctx, d, labels)
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID)
	}
	return ids, err
}

func notFound(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && e.Code == api.CodeNotFound
}
