package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) engineCommand() *cli.Command {
	return &cli.Command{
		Name:     "engine",
		Usage:    "list the engines, and add those that a file describes",
		Commands: []*cli.Command{a.engineLsCommand(), a.engineAddCommand(), a.engineInspectCommand(), a.engineRmCommand()},
	}
}

var engineListing = listing[api.Engine]{"engines", "NAME ADDED GOLDENS SCRIPTS DIGEST", func(e api.Engine) []string {
	added := "built in"
	if e.AddedAt != nil {
		added = age(time.Since(*e.AddedAt))
	}
	return []string{e.Name, added, strconv.Itoa(e.Goldens), strings.Join(e.Scripts, " "), e.Digest}
}, func(e api.Engine) string { return e.Name }}

func (a *app) engineLsCommand() *cli.Command {
	return listCommand(a, engineListing, &cli.Command{
		Name:        "ls",
		Aliases:     []string{"list"},
		Usage:       "list the engines",
		Description: "   ctrsnap engine ls",
	}, nothing(api.ListEngines))
}

func (a *app) engineAddCommand() *cli.Command {
	return showCommand(a, newOutput("table", "json"), &cli.Command{
		Name:      "add",
		Usage:     "add an engine that a file in TOML describes, or replace it (administrators only)",
		ArgsUsage: "FILE",
		Description: `Prints the engine's name. Goldens that were built by an earlier description of that name
keep it.

   ctrsnap engine add etcd.toml
   ctrsnap golden build config --engine etcd --from-host --init seed.sh`,
	}, func(ctx context.Context, d *client.Client, args []string) (api.Engine, error) {
		text, err := os.ReadFile(args[0])
		if err != nil {
			return api.Engine{}, fileHint.of("%v", cause(err))
		}
		return client.Do(ctx, d, api.AddEngine, api.AddEngineArgs{Body: api.EngineRequest{Description: string(text)}})
	}, func(w io.Writer, e api.Engine) error {
		_, err := fmt.Fprintln(w, e.Name)
		return err
	})
}

func (a *app) engineInspectCommand() *cli.Command {
	return inspectCommand(a, engineListing, "ENGINE", "engine inspect", engineNamed, &cli.Command{
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
			args, err := arguments(cmd)
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
