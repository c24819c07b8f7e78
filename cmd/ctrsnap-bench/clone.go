package main

import (
	"context"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/bench/scenario"
)

func cloneCommand() *cli.Command {
	o := &options{of: scenario.Clone}
	return &cli.Command{
		Name:  "clone",
		Usage: "measure the life of clones, with a daemon of the run's own",
		Description: `It ends with exit code 1 if anything was incorrect, never because of a time.

   ctrsnap-bench clone --quick
   ctrsnap-bench clone --only cold --only query
   ctrsnap-bench clone --daemon pool.memory='"4GiB"' --baseline pool.max=0`,
		Flags: append(o.flags(75*time.Second, 13*time.Minute),
			&cli.StringFlag{Name: "out", Value: "bench/out/clone.json", Usage: "`FILE` for the results", Destination: &o.out},
			&cli.StringSliceFlag{Name: "only", Usage: "run this `SCENARIO` (repeatable): " + strings.Join(o.names(), " "), Destination: &o.only}),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if err := o.check(cmd); err != nil {
				return err
			}
			o.keep = o.write
			return o.run(ctx, table)
		},
	}
}
