package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/report"
)

// errWorse is what a comparison ends with that was asked to fail.
var errWorse = errors.New("something became worse: see above")

func compareCommand() *cli.Command {
	fail := false
	return &cli.Command{
		Name:      "compare",
		Usage:     "say what changed from one run to another, and was no chance",
		ArgsUsage: "OLD NEW",
		Description: `OLD and NEW are files that -o json printed, or directories of --save.

   ctrsnap bench compare before.json after.json`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "fail", Usage: "end with exit code 1 if anything became worse", Destination: &fail}},
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.NArg() != 2 {
				return usage("ctrsnap bench compare OLD NEW", "compare needs two arguments, not %d", cmd.NArg())
			}
			old, err := recorded(cmd.Args().Get(0))
			if err != nil {
				return err
			}
			now, err := recorded(cmd.Args().Get(1))
			if err != nil {
				return err
			}
			if len(report.Changes(old, now)) == 0 {
				return errors.New("nothing to compare: the runs have no series in common")
			}
			worse, err := report.Comparison(os.Stdout, old, now)
			if err == nil && worse > 0 && fail {
				err = errWorse
			}
			return err
		},
	}
}

// recorded reads a file of results, or that of a directory.
func recorded(path string) ([]bench.Result, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, report.Results)
	}
	return report.Read(path)
}
