package main

import (
	"context"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) lsCommand() *cli.Command {
	out, f := newOutput("table", "json", "url", "name"), &filter{}
	var labels pairs
	return answering(a, out, &cli.Command{
		Name:        "ls",
		Aliases:     []string{"list", "ps"},
		Usage:       "list clones",
		Description: "   ctrsnap ls --label job=42\n   ctrsnap ls --filter state=dead -q\n   ctrsnap ls -o json\n   ctrsnap ls --format '{{.id}} {{.url}}'",
		Flags:       append(f.flags(out), pairsFlag("label", "only clones with the label `K=V` (repeatable)", &labels, "l")),
	}, func(ctx context.Context, d *client.Client, _ []string) ([]api.Clone, error) {
		return clonesWith(ctx, d, labels)
	}, func(list []api.Clone) error {
		list, err := chosen(f, list)
		if err != nil {
			return err
		}
		return a.printClones(out, naming{}, list, false)
	})
}

// clonesWith returns the clones that have all of the labels.
func clonesWith(ctx context.Context, d *client.Client, labels pairs) ([]api.Clone, error) {
	var args api.ListClonesArgs
	for k, v := range labels {
		args.Labels = append(args.Labels, k+"="+v)
	}
	return client.Do(ctx, d, api.ListClones, args)
}
