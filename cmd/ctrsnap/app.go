package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/cmd/internal/cmdline"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// app is one run of the command line.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	getenv         func(string) string
	environ        func() []string

	host     string // --host
	awayTold bool   // that the daemon is waited for
	// tail is what follows the first "--" of the command line; nil if there
	// was none.
	tail []string
}

// run parses and executes a command line and prints its error.
func (a *app) run(args []string) int {
	if len(args) > 1 && args[1] == completeVerb {
		return a.complete(args[2:])
	}
	if i := slices.Index(args, "--"); i >= 0 {
		args, a.tail = args[:i], append([]string{}, args[i+1:]...)
	}
	err := a.root(args).Run(context.Background(), helpArgs(args))
	a.suggest(err)
	return a.report(err, a.wantsJSON(args))
}

// helpArgs turns "help VERB…" into "VERB… --help".
func helpArgs(args []string) []string {
	if len(args) > 1 && args[1] == "help" {
		return append(append([]string{args[0]}, args[2:]...), "--help")
	}
	return args
}

// root describes the command line. If args begin with a verb, it is the only one:
// to set up all takes longer than most requests.
func (a *app) root(args []string) *cli.Command {
	verbs := []struct {
		name string
		make func() *cli.Command
	}{
		{"clone", a.cloneCommand}, {"run", a.runCommand}, {"ls", a.lsCommand}, {"inspect", a.inspectCommand}, {"logs", a.logsCommand},
		{"exec", a.execCommand}, {"connect", a.connectCommand}, {"restart", a.restartCommand}, {"extend", a.extendCommand}, {"rm", a.rmCommand},
		{"golden", a.goldenCommand}, {"pool", a.poolCommand}, {"net", a.netCommand}, {"engine", a.engineCommand}, {"events", a.eventsCommand}, {"stats", a.statsCommand}, {"doctor", a.doctorCommand}, {"gc", a.gcCommand},
		{"bench", a.benchCommand}, {"plan", a.planCommand}, {"version", a.versionCommand}, {"completion", a.completionCommand},
	}
	var commands []*cli.Command
	for _, v := range verbs {
		if len(args) > 1 && args[1] == v.name {
			commands = []*cli.Command{v.make()}
			break
		}
		commands = append(commands, v.make())
	}
	root := &cli.Command{
		Name:        "ctrsnap",
		Usage:       "private databases for CI jobs in milliseconds",
		Description: rootHelp,
		Writer:      a.stdout,
		ErrWriter:   a.stderr,
		Action:      a.noVerb,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "host", Aliases: []string{"H"}, Usage: "address of the daemon", DefaultText: api.DefaultHost, Sources: cli.EnvVars("CTRSNAP_HOST"), Destination: &a.host},
		},
		Commands: commands,
	}
	prepare(root)
	return root
}

const rootHelp = `A golden is an immutable database. A clone is a private, running copy of one.

   ctrsnap golden build shop --init schema.sql
   ctrsnap clone shop
   ctrsnap run shop -- go test ./...`

// prepare gives every command what all of them need.
func prepare(cmd *cli.Command) {
	cmd.HideHelpCommand = true
	cmd.DisableSliceFlagSeparator = true
	cmd.OnUsageError = usageErrorOf
	cmd.ExitErrHandler = func(context.Context, *cli.Command, error) {}
	switch {
	case cmd.Action == nil:
		cmd.Action = noSubcommand
	case len(cmd.Commands) == 0:
		cmd.Action = named(cmd.Action)
	}
	for _, sub := range cmd.Commands {
		prepare(sub)
	}
}

// named puts the verb before the errors of an action that do not say it.
func named(action cli.ActionFunc) cli.ActionFunc {
	return func(ctx context.Context, cmd *cli.Command) error {
		err := action(ctx, cmd)
		if _, many := err.(interface{ Unwrap() []error }); many {
			return err
		}
		return about(err, "%s", verb(cmd))
	}
}

// noVerb runs where the first word is no verb.
func (a *app) noVerb(_ context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return unknownVerb(cmd)
	}
	if err := cli.ShowRootCommandHelp(cmd); err != nil {
		return err
	}
	return nil
}

func noSubcommand(_ context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return unknownVerb(cmd)
	}
	var names []string
	for _, sub := range cmd.Commands {
		names = append(names, sub.Name)
	}
	return usagef("see ctrsnap %s --help", verb(cmd)).of("%s needs one of: %s", verb(cmd), strings.Join(names, ", "))
}

func unknownVerb(cmd *cli.Command) error {
	name := cmd.Args().First()
	hint := "see ctrsnap --help"
	var names []string
	for _, c := range cmd.Commands {
		names = append(names, c.Names()...)
	}
	if s := cmdline.Nearest(name, names); s != "" {
		hint = fmt.Sprintf("did you mean %q?", strings.TrimSpace(verb(cmd)+" "+s))
	}
	return usagef("%s", hint).of("unknown command %q", strings.TrimSpace(verb(cmd)+" "+name))
}

// verb returns the command's words without the program's name.
func verb(cmd *cli.Command) string {
	return strings.TrimSpace(strings.TrimPrefix(cmd.FullName(), cmd.Root().Name))
}

// connect returns the way to the daemon; nothing is sent yet.
func (a *app) connect() (*client.Client, error) { return client.New(a.host) }

// connectFor is connect for a command with an output, once that is known to be one.
func (a *app) connectFor(out *output) (*client.Client, error) {
	if err := out.resolve(a.getenv("CTRSNAP_OUTPUT")); err != nil {
		return nil, err
	}
	return a.connect()
}

// interruptible returns a context that ends with a signal that asks the
// command to stop; its cause then is a *signalError.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, watch, stop := interruptibleLater(ctx)
	watch()
	return ctx, stop
}

// interruptibleLater is interruptible from the one call of watch on; before it, a
// signal ends the process. The first use of signals takes the Go runtime a
// thread and several switches to it, a tenth of a short command's time.
func interruptibleLater(ctx context.Context) (_ context.Context, watch func(), stop context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ch := make(chan os.Signal, 1)
	done := make(chan struct{})
	watch = func() {
		signal.Notify(ch, notIgnored(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)...)
		go func() {
			select {
			case s := <-ch:
				cancel(&signalError{s.(syscall.Signal)})
			case <-done:
			}
		}()
	}
	return ctx, watch, func() {
		signal.Stop(ch)
		close(done)
		cancel(nil)
	}
}

// notIgnored leaves out the signals that whoever started us wants ignored
// (nohup): to catch them would give our children the default action.
func notIgnored(sigs ...os.Signal) []os.Signal {
	return slices.DeleteFunc(sigs, signal.Ignored)
}

// withTimeout ends ctx with an error of class timeout; 0 means never.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, d, &api.Error{
		Code: api.CodeTimeout, Message: fmt.Sprintf("not done after %s", d), Hint: "give it more time with --timeout", Retryable: true,
	})
}
