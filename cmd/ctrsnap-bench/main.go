// Ctrsnap-bench measures ctrsnap beside what one would use instead, never without
// looking at what the clones answer, and plans runners from what was measured.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// Whoever reads the output may go: the run ends all the same, with its daemon.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	if err := command().Run(ctx, os.Args); err != nil {
		stop()
		os.Exit(printError(os.Stderr, err))
	}
}

func command() *cli.Command {
	return prepare(&cli.Command{
		Name:                      "ctrsnap-bench",
		Usage:                     "measure ctrsnap, and plan runners",
		Description:               description,
		DisableSliceFlagSeparator: true,
		Action:                    noScenario,
		Commands:                  append(scenarioCommands(), cloneCommand(), compareCommand(), planCommand()),
	})
}
