package main

import (
	"context"
	"os/exec"
	"slices"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func (a *app) connectCommand() *cli.Command {
	var n naming
	return &cli.Command{
		Name:      "connect",
		Usage:     "open the engine's client (psql, mariadb, redis-cli …) on a clone",
		ArgsUsage: "ID [-- ARG…]",
		Description: `Uses the client of this host if there is one, else that in the clone. What follows --
goes to the client.

   ctrsnap connect pr-42
   ctrsnap connect pr-42 -- -c 'select 1'`,
		Flags: n.flags()[:1], // --via
		Action: func(ctx context.Context, cmd *cli.Command) error {
			args, err := arguments(cmd)
			if err != nil {
				return err
			}
			d, err := a.connect()
			if err != nil {
				return err
			}
			return about(a.connectTo(ctx, d, args[0], n), "connect %s", args[0])
		},
	}
}

func (a *app) connectTo(ctx context.Context, d *client.Client, id string, n naming) error {
	c, err := cloneByID(ctx, d, id)
	if err != nil {
		return err
	}
	if c.State == api.StateDead {
		return deadClone(c)
	}
	if path, err := exec.LookPath(c.Client); err == nil { // no path is named ""
		vars, err := n.of(c, "", "")
		if err != nil {
			return err
		}
		return syscall.Exec(path, slices.Concat([]string{path}, a.tail), withVariables(a.environ(), vars, c.UnsetEnv))
	}
	cmd, err := client.Do(ctx, d, api.GetClient, api.ClientArgs{ID: c.ID, Args: a.tail})
	if err != nil {
		return err
	}
	req := api.ExecRequest{Args: cmd.Args, Env: cmd.Env, Terminal: a.onTerminal()}
	if t := a.getenv("TERM"); t != "" && req.Terminal {
		req.Env = append(req.Env, "TERM="+t)
	}
	return a.execIn(ctx, d, c.ID, req, true)
}
