package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) lsCommand() *cli.Command {
	out, f := newOutput("table", "json", "url", "name"), &filter{}
	var labels pairs
	var watch bool
	list := func(ctx context.Context, d *client.Client) error {
		list, err := clonesWith(ctx, d, labels)
		if err == nil {
			list, err = chosen(f, list)
		}
		if err != nil {
			return err
		}
		return a.printClones(out, naming{}, list, false)
	}
	return &cli.Command{
		Name:        "ls",
		Aliases:     []string{"list", "ps"},
		Usage:       "list clones",
		Description: "   ctrsnap ls --label job=42\n   ctrsnap ls --filter state=dead -q\n   ctrsnap ls -o json\n   ctrsnap ls --format '{{.id}} {{.url}}'",
		Flags: slices.Concat(f.flags(out), []cli.Flag{
			pairsFlag("label", "only clones with the label `K=V` (repeatable)", &labels, "l"),
			&cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "list again whenever a clone comes, goes or changes", Destination: &watch},
		}, out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if _, err := arguments(cmd); err != nil {
				return err
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			if !watch {
				return list(ctx, d)
			}
			ctx, stop := interruptible(ctx)
			defer stop()
			return a.watch(ctx, d, func() error { return list(ctx, d) })
		},
	}
}

// watch lists now and after each event of a clone. A terminal is cleared before; elsewhere an empty line is between lists.
func (a *app) watch(ctx context.Context, d *client.Client, list func() error) error {
	which := api.EventsArgs{Types: []string{"clone"}}
	between := ""
	show := func() error {
		fmt.Fprint(a.stdout, between)
		between = "\n"
		if term.IsTerminal(int(a.stdout.Fd())) {
			between = "\x1b[H\x1b[2J"
		}
		return list()
	}
	// What has happened before the first list is in it.
	if err := d.Events(ctx, which, func(e api.Event) error { which.Since = e.ID; return nil }); err != nil {
		return err
	}
	if err := show(); err != nil {
		return err
	}
	which.Follow = true
	return d.Events(ctx, which, func(api.Event) error { return show() })
}

// clonesWith returns the clones that have all of the labels.
func clonesWith(ctx context.Context, d *client.Client, labels pairs) ([]api.Clone, error) {
	var args api.ListClonesArgs
	for k, v := range labels {
		args.Labels = append(args.Labels, k+"="+v)
	}
	return client.Do(ctx, d, api.ListClones, args)
}
