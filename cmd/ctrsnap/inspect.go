package main

import (
	"context"
	"io"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) inspectCommand() *cli.Command {
	return inspectCommand(a, newOutput("json", "table"), "ID", cloneByID, cloneDetails, &cli.Command{
		Name:        "inspect",
		Usage:       "show all that is known of a clone, its server's settings too",
		Description: "ID here and in other commands is an id, a unique beginning of one, or a name.\n\n   ctrsnap inspect pr-42\n   ctrsnap inspect pr-42 -o table\n   ctrsnap inspect pr-42 --format '{{.host}}:{{.port}}'",
	})
}

func cloneByID(ctx context.Context, d *client.Client, id string) (api.Clone, error) {
	return client.Do(ctx, d, api.GetClone, api.CloneArgs{ID: id})
}

// inspectCommand completes c, a command that shows one thing whole; plain prints it for people, nil where that is not done.
func inspectCommand[T any](a *app, out *output, arg string, get func(context.Context, *client.Client, string) (T, error), plain func(io.Writer, T) error, c *cli.Command) *cli.Command {
	c.ArgsUsage = arg
	return showCommand(a, out, c, func(ctx context.Context, d *client.Client, args []string) (T, error) { return get(ctx, d, args[0]) }, plain)
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
