package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/urfave/cli/v3"
	"golang.org/x/term"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

type execOptions struct {
	interactive, tty bool
	user, dir        string
	env              []string
}

func (a *app) execCommand() *cli.Command {
	o := &execOptions{}
	c := &cli.Command{
		Name:      "exec",
		Usage:     "run a command in a clone",
		ArgsUsage: "ID -- CMD [ARG…]",
		Description: `Returns the command's exit code. On a terminal the command gets one too; elsewhere it reads
stdin with -i only.

   ctrsnap exec pr-42 -- ls /
   echo 'select 1' | ctrsnap exec -i pr-42 -- cat`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "pass stdin on", Destination: &o.interactive},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the command a terminal; default if stdin, stdout and stderr are one", Destination: &o.tty},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "run as `USER`; default the server's own", Destination: &o.user},
			&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "run in `DIR`", Destination: &o.dir},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "variable `K=V` (repeatable)", Destination: &o.env},
		},
		UseShortOptionHandling: true,
	}
	if a.tail == nil { // as docker has it: ID CMD -x, all after ID is the command's
		c.StopOnNthArg = new(int)
		*c.StopOnNthArg = 1
	}
	c.Action = func(ctx context.Context, cmd *cli.Command) error {
		words := slices.Concat(cmd.Args().Slice(), a.tail)
		if a.tail != nil && cmd.NArg() != 1 || len(words) < 2 {
			return wrongArgs(cmd, "ID and a command", len(words) < 2 || cmd.NArg() == 0)
		}
		d, err := a.connect()
		if err != nil {
			return err
		}
		if !cmd.IsSet("tty") && a.onTerminal() {
			o.tty, o.interactive = true, true
		}
		req := api.ExecRequest{Args: words[1:], Env: o.env, Cwd: o.dir, User: o.user, Terminal: o.tty}
		return about(a.execIn(ctx, d, words[0], req, o.interactive), "exec %s", words[0])
	}
	return c
}

func (a *app) onTerminal() bool {
	for _, f := range []*os.File{a.stdin, a.stdout, a.stderr} {
		if !term.IsTerminal(int(f.Fd())) {
			return false
		}
	}
	return true
}

// execIn runs a command in a clone on our streams; its exit code is ours.
func (a *app) execIn(ctx context.Context, d *client.Client, id string, req api.ExecRequest, interactive bool) error {
	var stdin io.Reader
	if interactive {
		stdin = a.stdin
	}
	var sizes chan api.WindowSize
	if req.Terminal {
		if interactive && !term.IsTerminal(int(a.stdin.Fd())) {
			return usagef("leave -t away").of("stdin is not a terminal")
		}
		var stop func()
		sizes, stop = a.watchSize(&req)
		defer stop()
		if interactive {
			old, err := term.MakeRaw(int(a.stdin.Fd()))
			if err != nil {
				return err
			}
			defer func() { _ = term.Restore(int(a.stdin.Fd()), old) }()
		}
	}
	ctx, cancel := interruptible(ctx)
	defer cancel()
	code, err := d.Exec(ctx, id, req, stdin, a.stdout, a.stderr, sizes)
	if err == nil && code != 0 {
		return &codeError{code: code}
	}
	var e *api.Error
	if errors.As(err, &e) && e.Code == api.CodeConflict {
		if c, getErr := cloneByID(ctx, d, id); getErr == nil && c.State == api.StateDead {
			return deadClone(c)
		}
	}
	return err
}

// watchSize puts the terminal's size into req and returns the sizes that follow.
func (a *app) watchSize(req *api.ExecRequest) (chan api.WindowSize, func()) {
	req.Rows, req.Cols = a.terminalSize()
	changed, sizes, done := make(chan os.Signal, 1), make(chan api.WindowSize), make(chan struct{})
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-changed:
			case <-done:
				return
			}
			rows, cols := a.terminalSize()
			select {
			case sizes <- api.WindowSize{Rows: rows, Cols: cols}:
			case <-done:
				return
			}
		}
	}()
	return sizes, func() {
		signal.Stop(changed)
		close(done)
	}
}

func (a *app) terminalSize() (rows, cols uint16) {
	w, h, err := term.GetSize(int(a.stdout.Fd()))
	if err != nil {
		return 24, 80
	}
	return uint16(h), uint16(w)
}
