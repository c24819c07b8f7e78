package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// engineList is the document of `engine ls -o json`.
type engineList struct {
	Schema  int          `json:"schema"`
	Engines []api.Engine `json:"engines"`
}

func (a *app) engineCommand() *cli.Command {
	return &cli.Command{
		Name:     "engine",
		Usage:    "list the engines, and add those that a file describes",
		Commands: []*cli.Command{a.engineLsCommand(), a.engineAddCommand(), a.engineInspectCommand(), a.engineRmCommand()},
	}
}

func (a *app) engineLsCommand() *cli.Command {
	out := newOutput("table", "json")
	return &cli.Command{
		Name:        "ls",
		Aliases:     []string{"list"},
		Usage:       "list the engines",
		Description: "   ctrsnap engine ls",
		Flags:       out.flags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return wrongArgs(cmd, "", false)
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			list, err := client.Do(ctx, d, api.ListEngines, api.None{})
			if err != nil {
				return about(err, "engine ls")
			}
			return a.printEngines(out, list)
		},
	}
}

func (a *app) printEngines(out *output, list []api.Engine) error {
	switch out.format {
	case "json":
		return printJSON(a.stdout, engineList{api.Schema, list})
	case "template":
		return executeEach(a.stdout, out, list)
	}
	var rows [][]string
	for _, e := range list {
		added := "built in"
		if e.AddedAt != nil {
			added = age(time.Since(*e.AddedAt))
		}
		rows = append(rows, []string{e.Name, added, strconv.Itoa(e.Goldens), strings.Join(e.Scripts, " "), e.Digest})
	}
	return table(a.stdout, "NAME ADDED GOLDENS SCRIPTS DIGEST", rows)
}

func (a *app) engineAddCommand() *cli.Command {
	out := newOutput("table", "json")
	return &cli.Command{
		Name:      "add",
		Usage:     "add an engine that a file in TOML describes, or replace it (administrators only)",
		ArgsUsage: "FILE",
		Description: `Prints the engine's name. Goldens that were built by an earlier description of that name
keep it.

   ctrsnap engine add etcd.toml
   ctrsnap golden build config --engine etcd --from-host --init seed.sh`,
		Flags: out.flags(),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := exactly(cmd, "FILE")
			if err != nil {
				return err
			}
			text, err := os.ReadFile(args[0])
			if err != nil {
				return badSource("engine add", err)
			}
			d, err := a.connectFor(out)
			if err != nil {
				return err
			}
			e, err := client.Do(ctx, d, api.AddEngine, api.AddEngineArgs{Body: api.EngineRequest{Description: string(text)}})
			if err != nil {
				return about(err, "engine add %s", args[0])
			}
			if out.format == "json" {
				return printJSON(a.stdout, e)
			}
			if out.format == "template" {
				return out.execute(a.stdout, e)
			}
			_, err = fmt.Fprintln(a.stdout, e.Name)
			return err
		},
	}
}

func (a *app) engineInspectCommand() *cli.Command {
	return inspectCommand(a, "ENGINE", "engine inspect", engineNamed, nil, &cli.Command{
		Name:        "inspect",
		Usage:       "show all that is known of an engine",
		Description: "   ctrsnap engine inspect mariadb\n   ctrsnap engine inspect etcd --format '{{.description}}'",
	})
}

func engineNamed(ctx context.Context, d *client.Client, name string) (api.Engine, error) {
	return client.Do(ctx, d, api.GetEngine, api.EngineArgs{Name: name})
}

func (a *app) engineRmCommand() *cli.Command {
	return &cli.Command{
		Name:        "rm",
		Usage:       "remove an engine that was added and that no golden is of (administrators only)",
		ArgsUsage:   "ENGINE",
		Description: "   ctrsnap engine rm etcd",
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := exactly(cmd, "ENGINE")
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			return about(client.Tell(ctx, d, api.RemoveEngine, api.EngineArgs{Name: args[0]}), "engine rm %s", args[0])
		},
	}
}
