package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) poolCommand() *cli.Command {
	return &cli.Command{
		Name:     "pool",
		Usage:    "list and size the clones that are made ahead",
		Commands: []*cli.Command{a.poolLsCommand(), a.poolSetCommand()},
	}
}

var poolListing = listing[api.Pool]{"pools", "GOLDEN SIZE WANTED READY MAKING HITS MISSES", func(p api.Pool) []string {
	size := "auto"
	if p.Size != nil {
		size = strconv.Itoa(*p.Size)
	}
	return []string{
		p.Golden + ":" + strconv.Itoa(p.Version), size, strconv.Itoa(p.Wanted), strconv.Itoa(p.Ready), strconv.Itoa(p.Making),
		strconv.FormatUint(p.Hits, 10), strconv.FormatUint(p.Misses, 10),
	}
}, func(p api.Pool) string { return p.Golden }}

func (a *app) poolLsCommand() *cli.Command {
	return listCommand(a, poolListing, &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the pools",
		Description: `WANTED is how many clones are to be ready, by SIZE (set, or auto) and memory. HITS
and MISSES count clones since the daemon's start that were taken from the pool, and
that had to be made.

   ctrsnap pool ls
   ctrsnap pool ls -o json`,
	}, nothing(api.ListPools))
}

func (a *app) poolSetCommand() *cli.Command {
	var size int
	var auto bool
	return &cli.Command{
		Name:      "set",
		Usage:     "set how many clones of a golden are kept ahead",
		ArgsUsage: "GOLDEN",
		Description: `The size is kept with the golden, for its current version, over restarts and reboots.

   ctrsnap pool set shop --size 8
   ctrsnap pool set shop --auto     # by demand again`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "size", Usage: "how many: `N`, 0 for none", HideDefault: true, Destination: &size, Validator: atLeast0},
			&cli.BoolFlag{Name: "auto", Usage: "follow the demand", Destination: &auto},
		},
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			req := api.PoolRequest{Auto: auto}
			if cmd.IsSet("size") {
				req.Size = &size
			}
			if (req.Size == nil) == !auto {
				return usagef("see ctrsnap pool set --help").of("pool set: want one of --size and --auto")
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			_, err = client.Do(ctx, d, api.SetPool, api.SetPoolArgs{Golden: args[0], Body: req})
			return about(err, "pool set %s", args[0])
		},
	}
}

func atLeast0(n int) error {
	if n < 0 {
		return fmt.Errorf("want at least 0")
	}
	return nil
}

// queued tells on stderr of a place in the daemon's queue.
func (a *app) queued(place int, estimate time.Duration) {
	fmt.Fprintf(a.stderr, "ctrsnap: place %d in the queue, about %s\n", place, max(estimate, time.Millisecond).Round(time.Millisecond))
}

// away tells on stderr, once, that the daemon is waited for.
func (a *app) away() {
	if !a.awayTold {
		a.awayTold = true
		a.hint("wait for the daemon at %s, which is not there or about to stop", cmp.Or(a.host, api.DefaultHost))
	}
}

func waitTimeoutFlag(d *api.Duration) cli.Flag {
	return durationFlag("wait-timeout", "give up after `D` in the daemon's queue, where many clone at once", d)
}
