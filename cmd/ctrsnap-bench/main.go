// Ctrsnap-bench measures ctrsnap beside what one would use instead, never without
// looking at what the clones answer, and plans runners from what was measured.
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
		Name:                      "ctrsnap-bench",
		Usage:                     "measure ctrsnap, and plan runners",
		Description:               description,
		DisableSliceFlagSeparator: true,
		Commands:                  append(scenarioCommands(), cloneCommand(), compareCommand(), planCommand()),
	}
}
