package main

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) inspectCommand() *cli.Command {
	return inspectCommand(a, "ID", "inspect", cloneByID, cloneDetails, &cli.Command{
		Name:        "inspect",
		Usage:       "show all that is known of a clone, its server's settings too",
		Description: "ID here and in other commands is an id, a unique beginning of one, or a name.\n\n   ctrsnap inspect pr-42\n   ctrsnap inspect pr-42 -o table\n   ctrsnap inspect pr-42 --format '{{.host}}:{{.port}}'",
	})
}

func cloneByID(ctx context.Context, d *client.Client, id string) (api.Clone, error) {
	return client.Do(ctx, d, api.GetClone, api.CloneArgs{ID: id})
}

// inspectCommand completes c, a command that shows one thing whole. verb is
// what errors call it, table prints it for people; nil if that is not done.
func inspectCommand[T any](a *app, arg, verb string, get func(context.Context, *client.Client, string) (T, error), table func(io.Writer, T) error, c *cli.Command) *cli.Command {
	out := newOutput("json")
	if table != nil {
		out = newOutput("json", "table")
	}
	c.ArgsUsage, c.Flags = arg, out.flags()
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		args, err := exactly(cmd, arg)
		if err != nil {
			return err
		}
		d, err := a.connectFor(out)
		if err != nil {
			return err
		}
		v, err := get(ctx, d, args[0])
		if err != nil {
			return about(err, verb+" %s", args[0])
		}
		switch out.format {
		case "template":
			return out.execute(a.stdout, v)
		case "table":
			return table(a.stdout, v)
		}
		return printJSON(a.stdout, v)
	}
	return c
}

// cloneDetails prints a clone in its row of ls, then what its server is set to.
func cloneDetails(w io.Writer, c api.Clone) error {
	if err := cloneTable(w, []api.Clone{c}, time.Now()); err != nil {
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
