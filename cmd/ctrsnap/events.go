package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func (a *app) eventsCommand() *cli.Command {
	out := newOutput("table", "json")
	var which api.EventsArgs
	var types string
	return &cli.Command{
		Name:  "events",
		Usage: "print what has happened to clones, goldens and the storage",
		Description: `Who sees a clone or a golden sees its events. With -o json one document a line.

   ctrsnap events --follow
   ctrsnap events --type clone.expiring,clone.stopped --golden shop`,
		Flags: slices.Concat([]cli.Flag{
			&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what happens", Destination: &which.Follow},
			&cli.StringFlag{Name: "type", Usage: "only `TYPE[,TYPE]`, as clone.died, or clone for all of clones", Destination: &types},
			&cli.StringFlag{Name: "clone", Usage: "only of the clone `ID`", Destination: &which.Clone},
			&cli.StringFlag{Name: "golden", Usage: "only of `GOLDEN` and its clones", Destination: &which.Golden},
		}, out.flags()),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if _, err := arguments(cmd); err != nil {
				return err
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(ctx)
			defer stop()
			which.Types = commaList(types)
			return about(d.Events(ctx, which, func(e api.Event) error { return a.printEvent(out, e) }), "events")
		},
	}
}

func (a *app) printEvent(out *output, e api.Event) error {
	switch out.format {
	case "json":
		return printLine(a.stdout, e)
	case "yaml":
		if _, err := fmt.Fprintln(a.stdout, "---"); err != nil {
			return err
		}
		return printYAML(a.stdout, e)
	case "template":
		return out.execute(a.stdout, e)
	}
	fields := []string{e.Time.Local().Format(time.RFC3339), string(e.Type)}
	for _, f := range []struct{ name, value string }{
		{"clone", e.Clone}, {"name", e.Name}, {"golden", e.Golden}, {"owner", e.Owner}, {"by", e.By}, {"reason", e.Reason},
	} {
		if f.value != "" {
			fields = append(fields, f.name+"="+quoteIfNeeded(oneLine(f.value)))
		}
	}
	_, err := fmt.Fprintln(a.stdout, strings.Join(fields, " "))
	return err
}

func quoteIfNeeded(s string) string {
	if strings.ContainsAny(s, " \"") {
		return strconv.Quote(s)
	}
	return s
}

func (a *app) statsCommand() *cli.Command {
	return showCommand(a, newOutput("table", "json"), &cli.Command{
		Name:        "stats",
		Usage:       "print what clones use of memory and disk, and what the storage has left",
		Description: "Each clone is measured for it.\n\n   ctrsnap stats",
	}, nothing(api.GetStats), statsTable)
}

func statsTable(w io.Writer, s api.Stats) error {
	var rows [][]string
	for _, c := range s.Clones {
		rows = append(rows, []string{
			c.ID, c.Name, c.Golden, c.Owner, string(c.State),
			ofLimit(c.MemoryBytes, c.Limits.MemoryBytes), ofLimit(c.DiskBytes, c.Limits.DiskBytes),
		})
	}
	if err := table(w, "CLONE NAME GOLDEN OWNER STATE MEMORY DISK", rows); err != nil {
		return err
	}
	low := ""
	if s.Storage.Low {
		low = ": nothing is made until there is more"
	}
	_, err := fmt.Fprintf(w, "\nstorage: %s free of %s, %s in reserve%s\npool: %d ready, queue: %d\n",
		size(s.Storage.FreeBytes), size(s.Storage.SizeBytes), size(s.Storage.ReserveBytes), low, s.Pool, s.Queue)
	return err
}

func ofLimit(n, limit int64) string {
	if limit == 0 {
		return size(n)
	}
	return size(n) + "/" + size(limit)
}
