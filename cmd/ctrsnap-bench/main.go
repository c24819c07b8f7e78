// Ctrsnap-bench measures ctrsnap: with a daemon of its own, beside what one
// would use instead, and never without looking at what the clones answer.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := command().Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "ctrsnap-bench:", err)
		stop()
		os.Exit(1)
	}
}

func command() *cli.Command {
	return &cli.Command{
		Name:     "ctrsnap-bench",
		Usage:    "measure ctrsnap",
		Commands: []*cli.Command{cloneCommand()},
	}
}
