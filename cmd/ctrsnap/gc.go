package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) gcCommand() *cli.Command {
	out := newOutput("table", "json")
	var dry bool
	return answering(a, out, &cli.Command{
		Name:  "gc",
		Usage: "remove what is left of clones and builds that nobody has",
		Description: `The daemon does so by itself whenever it starts. USED is what belongs to clones, builds and
the pool; ORPHANS belong to nobody. Exit code 1 if something could not be removed.

   ctrsnap gc --dry-run`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "dry-run", Usage: "only say what there is", Destination: &dry}},
	}, func(ctx context.Context, d *client.Client, _ []string) (api.GC, error) {
		ask := api.CollectGarbage
		if dry {
			ask = api.ShowGarbage
		}
		return client.Do(ctx, d, ask, api.None{})
	}, func(g api.GC) error {
		err := printDocument(a.stdout, out, g, gcTable)
		if err == nil && slices.ContainsFunc(g.Kinds, func(k api.GCKind) bool { return len(k.Errors) > 0 }) {
			err = &codeError{code: 1}
		}
		return err
	})
}

// gcTable writes the counts, then the names of the orphans.
func gcTable(w io.Writer, g api.GC) error {
	var rows [][]string
	for _, k := range g.Kinds {
		rows = append(rows, []string{k.Kind, strconv.Itoa(k.Used), strconv.Itoa(len(k.Orphans))})
	}
	if err := table(w, "KIND USED ORPHANS", rows); err != nil {
		return err
	}
	for _, k := range g.Kinds {
		if len(k.Orphans) > 0 {
			fmt.Fprintf(w, "\n%s: %s\n", k.Kind, strings.Join(k.Orphans, " "))
		}
		for _, e := range k.Errors {
			fmt.Fprintf(w, "\n%s: error: %s\n", k.Kind, oneLine(e))
		}
	}
	return nil
}
