package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) gcCommand() *cli.Command {
	out := newOutput("table", "json")
	var dry bool
	return &cli.Command{
		Name:  "gc",
		Usage: "remove what is left of clones and builds that nobody has",
		Description: `The daemon does so by itself whenever it starts. USED is what belongs to clones, builds and
the pool; ORPHANS belong to nobody. Exit code 1 if something could not be removed.

   ctrsnap gc --dry-run`,
		Flags: append(out.flags(), &cli.BoolFlag{Name: "dry-run", Usage: "only say what there is", Destination: &dry}),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return wrongArgs(cmd, "", false)
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			ask := api.CollectGarbage
			if dry {
				ask = api.ShowGarbage
			}
			g, err := client.Do(ctx, d, ask, api.None{})
			if err != nil {
				return about(err, "gc")
			}
			return a.printGC(out, g)
		},
	}
}

func (a *app) printGC(out *output, g api.GC) error {
	var err error
	switch out.format {
	case "json":
		err = printJSON(a.stdout, g)
	case "template":
		err = out.execute(a.stdout, g)
	default:
		err = a.gcTable(g)
	}
	for _, k := range g.Kinds {
		if len(k.Errors) > 0 && err == nil {
			err = &codeError{code: 1}
		}
	}
	return err
}

// gcTable writes the counts, then the names of the orphans.
func (a *app) gcTable(g api.GC) error {
	var rows [][]string
	for _, k := range g.Kinds {
		rows = append(rows, []string{k.Kind, strconv.Itoa(k.Used), strconv.Itoa(len(k.Orphans))})
	}
	if err := table(a.stdout, "KIND USED ORPHANS", rows); err != nil {
		return err
	}
	for _, k := range g.Kinds {
		if len(k.Orphans) > 0 {
			fmt.Fprintf(a.stdout, "\n%s: %s\n", k.Kind, strings.Join(k.Orphans, " "))
		}
		for _, e := range k.Errors {
			fmt.Fprintf(a.stdout, "\n%s: error: %s\n", k.Kind, oneLine(e))
		}
	}
	return nil
}
