package main

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) restartCommand() *cli.Command {
	out := newOutput("name", "json", "table")
	return answering(a, out, &cli.Command{
		Name:      "restart",
		Usage:     "have clones' servers end in order and start again, on their data, and print their ids when they answer",
		ArgsUsage: "ID…",
		Description: "Addresses, passwords and what was written stay; connections end. ALTER SYSTEM counts from then on.\n" +
			"A server that ends in order by itself (pg_ctl restart, SHUTDOWN) is started again, too.\n\n   ctrsnap restart pr-42",
	}, getAll("restart", func(ctx context.Context, d *client.Client, id string) (api.Clone, error) {
		return client.Do(ctx, d, api.RestartClone, api.CloneArgs{ID: id})
	}), func(got found[api.Clone]) error {
		if out.format != "name" {
			return got.print(a.stdout, out, cloneListing, nil)
		}
		for _, c := range got.docs {
			fmt.Fprintln(a.stdout, c.ID)
		}
		return got.err
	})
}
