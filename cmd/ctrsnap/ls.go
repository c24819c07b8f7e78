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

func (a *app) lsCommand() *cli.Command {
	out := newOutput("table", "json", "url")
	var labels pairs
	var quiet bool
	return &cli.Command{
		Name:        "ls",
		Aliases:     []string{"list", "ps"},
		Usage:       "list clones",
		Description: "   ctrsnap ls --label job=42\n   ctrsnap ls -o json\n   ctrsnap ls --format '{{.id}} {{.url}}'",
		Flags: slices.Concat([]cli.Flag{
			pairsFlag("label", "only clones with the label `K=V` (repeatable)", &labels, "l"),
			quietFlag(&quiet, "ids only"),
		}, out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return wrongArgs(cmd, "", false)
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			list, err := clonesWith(ctx, d, labels)
			if err != nil {
				return about(err, "ls")
			}
			return a.printList(out, list, quiet)
		},
	}
}

// clonesWith returns the clones that have all of the labels.
func clonesWith(ctx context.Context, d *client.Client, labels pairs) ([]api.Clone, error) {
	var args api.ListClonesArgs
	for k, v := range labels {
		args.Labels = append(args.Labels, k+"="+v)
	}
	return client.Do(ctx, d, api.ListClones, args)
}

func (a *app) printList(out *output, list []api.Clone, quiet bool) error {
	if quiet {
		for _, c := range list {
			fmt.Fprintln(a.stdout, c.ID)
		}
		return nil
	}
	switch out.format {
	case "json":
		if list == nil {
			list = []api.Clone{}
		}
		return printJSON(a.stdout, cloneList{api.Schema, list})
	case "url":
		return printURLs(a.stdout, naming{}, list)
	case "template":
		return executeEach(a.stdout, out, list)
	}
	return cloneTable(a.stdout, list, time.Now())
}
