package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) inspectCommand() *cli.Command {
	out := newOutput("json", "table", "url", "env", "dotenv", "name")
	var n naming
	return answering(a, out, &cli.Command{
		Name:      "inspect",
		Usage:     "show all that is known of clones, their servers' settings too",
		ArgsUsage: "ID…",
		Description: `ID here and in other commands is an id, a unique beginning of one, or a name. Several make a
list; those that are not there are reported, and the others shown.

   ctrsnap inspect pr-42
   ctrsnap inspect pr-42 -o table
   eval "$(ctrsnap inspect pr-42 -o env)"
   ctrsnap inspect pr-42 --format '{{.host}}:{{.port}}'`,
		Flags: n.flags(),
	}, getAll("inspect", cloneByID), func(got found[api.Clone]) error {
		if out.format == "table" {
			return got.print(a.stdout, out, cloneListing, cloneDetails)
		}
		return got.or(a.printClones(out, n, got.docs, got.alone))
	})
}

// found are documents that were asked for by name, and why others are missing.
type found[T any] struct {
	docs  []T
	alone bool // one was asked for
	err   error
}

// getAll gets the documents of all names; verb is what errors call it. The error is of one that was asked for alone.
func getAll[T any](verb string, get func(context.Context, *client.Client, string) (T, error)) func(context.Context, *client.Client, []string) (found[T], error) {
	return func(ctx context.Context, d *client.Client, names []string) (found[T], error) {
		got := found[T]{alone: len(names) == 1}
		var errs []error
		for _, name := range names {
			doc, err := get(ctx, d, name)
			if err != nil {
				errs = append(errs, about(err, "%s %s", verb, name))
				continue
			}
			got.docs = append(got.docs, doc)
		}
		if got.alone && len(errs) > 0 {
			return got, errs[0]
		}
		got.err = errors.Join(errs...)
		return got, nil
	}
}

// or returns err, or else what keeps some of the documents from being shown.
func (f found[T]) or(err error) error {
	if err != nil {
		return err
	}
	return f.err
}

// print prints one document, or the list of several, which plain prints one after the other.
func (f found[T]) print(w io.Writer, out *output, l listing[T], plain func(io.Writer, T) error) error {
	if f.alone && out.format != "name" {
		return printDocument(w, out, f.docs[0], plain)
	}
	if out.format != "table" {
		return f.or(l.print(w, out, f.docs))
	}
	for i, doc := range f.docs {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := plain(w, doc); err != nil {
			return err
		}
	}
	return f.err
}

func cloneByID(ctx context.Context, d *client.Client, id string) (api.Clone, error) {
	return client.Do(ctx, d, api.GetClone, api.CloneArgs{ID: id})
}

// inspectCommand completes c, a command that shows things of a kind whole.
func inspectCommand[T any](a *app, l listing[T], arg, verb string, get func(context.Context, *client.Client, string) (T, error), c *cli.Command) *cli.Command {
	out := newOutput("json", "name")
	c.ArgsUsage = arg + "…"
	return answering(a, out, c, getAll(verb, get), func(got found[T]) error { return got.print(a.stdout, out, l, nil) })
}

// cloneDetails prints a clone in its row of ls, then what its server is set to.
func cloneDetails(w io.Writer, c api.Clone) error {
	if err := cloneListing.table(w, []api.Clone{c}); err != nil {
		return err
	}
	if c.Durability == api.DurabilityOff {
		if _, err := io.WriteString(w, "\ndurability is off: what is written to the clone is gone with its host\n"); err != nil {
			return err
		}
	}
	var rows [][]string
	for _, s := range c.ServerSettings {
		rows = append(rows, []string{s.Name, oneLine(s.Value), s.From, strings.TrimPrefix(s.Note, "durability is off: ")})
	}
	if len(rows) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return table(w, "SETTING VALUE FROM NOTE", rows)
}
