package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// list is the document of a list, which has a name of its own in it.
type list[T any] struct {
	key  string
	docs []T
}

// MarshalJSON writes the list as people expect it: the schema first.
func (l list[T]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	err := printLine(&b, append([]T{}, l.docs...)) // never null
	return fmt.Appendf(nil, `{"schema":%d,%q:%s}`, api.Schema, l.key, b.Bytes()), err
}

// listing says how documents of one kind are listed.
type listing[T any] struct {
	key    string // of the list in JSON
	header string // of the table
	row    func(T) []string
	name   func(T) string // by which other verbs take it; -q and -o name print it
}

// print writes docs in the format that out says.
func (l listing[T]) print(w io.Writer, out *output, docs []T) error {
	var one func(T) error
	switch out.format {
	case "json":
		return printJSON(w, list[T]{l.key, docs})
	case "yaml":
		return printYAML(w, list[T]{l.key, docs})
	case "template":
		one = func(doc T) error { return out.execute(w, doc) }
	case "name":
		one = func(doc T) error { _, err := fmt.Fprintln(w, l.name(doc)); return err }
	default:
		return l.table(w, docs)
	}
	for _, doc := range docs {
		if err := one(doc); err != nil {
			return err
		}
	}
	return nil
}

func (l listing[T]) table(w io.Writer, docs []T) error {
	var rows [][]string
	for _, doc := range docs {
		rows = append(rows, l.row(doc))
	}
	return table(w, l.header, rows)
}

// printDocument writes doc in the format that out says, or by plain where that is none for programs.
func printDocument[T any](w io.Writer, out *output, doc T, plain func(io.Writer, T) error) error {
	switch out.format {
	case "json":
		return printJSON(w, doc)
	case "yaml":
		return printYAML(w, doc)
	case "template":
		return out.execute(w, doc)
	}
	return plain(w, doc)
}

// answering completes c, a command that asks the daemon and prints the answer.
func answering[T any](a *app, out *output, c *cli.Command, ask func(context.Context, *client.Client, []string) (T, error), print func(T) error) *cli.Command {
	c.Flags = append(c.Flags, out.flags()...)
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		args, err := arguments(cmd)
		if err != nil {
			return err
		}
		d, err := a.connectFor(out)
		if err != nil {
			return err
		}
		answer, err := ask(ctx, d, args)
		if err != nil {
			return about(err, "%s", strings.Join(append([]string{verb(cmd)}, args...), " "))
		}
		return print(answer)
	}
	return c
}

// listCommand completes c, a command that lists.
func listCommand[T any](a *app, l listing[T], c *cli.Command, ask func(context.Context, *client.Client, []string) ([]T, error)) *cli.Command {
	out, f := newOutput("table", "json", "name"), &filter{}
	c.Flags = append(c.Flags, f.flags(out)...)
	return answering(a, out, c, ask, func(docs []T) error {
		docs, err := chosen(f, docs)
		if err != nil {
			return err
		}
		return l.print(a.stdout, out, docs)
	})
}

// showCommand completes c, a command that prints one document, by plain unless it is told otherwise.
func showCommand[T any](a *app, out *output, c *cli.Command, ask func(context.Context, *client.Client, []string) (T, error), plain func(io.Writer, T) error) *cli.Command {
	return answering(a, out, c, ask, func(doc T) error { return printDocument(a.stdout, out, doc, plain) })
}

// nothing is what a route takes that needs no arguments.
func nothing[T any](r api.Route[api.None, T]) func(context.Context, *client.Client, []string) (T, error) {
	return func(ctx context.Context, d *client.Client, _ []string) (T, error) {
		return client.Do(ctx, d, r, api.None{})
	}
}
