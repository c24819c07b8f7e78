package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/cmd/internal/cmdline"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// usage is an error of the command line: exit code 2, as of ctrsnap.
func usage(hint, format string, args ...any) error {
	return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// printError prints err, with what its causes say to people, and returns the exit code.
func printError(w io.Writer, err error) int {
	fmt.Fprintln(w, "ctrsnap-bench:", err)
	var e *api.Error
	switch {
	case errors.As(err, &e):
		if e.Hint != "" {
			fmt.Fprintln(w, "hint:", e.Hint)
		}
		return e.Code.ExitCode()
	case errors.Is(err, plan.ErrLoad):
		return api.CodeUsage.ExitCode()
	case errors.Is(err, fs.ErrNotExist):
		return api.CodeNotFound.ExitCode()
	case errors.Is(err, plan.ErrTooMuch):
		return api.CodeCapacity.ExitCode()
	}
	return api.CodeGeneral.ExitCode()
}

// prepare has a command and those below report errors as ctrsnap does.
func prepare(cmd *cli.Command) *cli.Command {
	cmd.OnUsageError = usageErrorOf
	cmd.ExitErrHandler = func(context.Context, *cli.Command, error) {} // main does
	for _, sub := range cmd.Commands {
		prepare(sub)
	}
	return cmd
}

// usageErrorOf makes an error of the command line's parser ours.
func usageErrorOf(_ context.Context, cmd *cli.Command, err error, _ bool) error {
	return cmdline.UsageError(cmd, err, asked(cmd))
}

// asked is a command as people type it: ctrsnap runs this program.
func asked(cmd *cli.Command) string {
	switch cmd.Name {
	case "ctrsnap-bench":
		return "ctrsnap bench"
	case "plan":
		return "ctrsnap plan"
	}
	return "ctrsnap bench " + cmd.Name
}

// noScenario runs where the first word is no scenario.
func noScenario(_ context.Context, cmd *cli.Command) error {
	if !cmd.Args().Present() {
		return cli.ShowRootCommandHelp(cmd)
	}
	return unknownScenario(cmd.Args().First(), append(all().names(), "all"))
}

func unknownScenario(name string, known []string) error {
	return usage("the scenarios are "+strings.Join(known, " "), "unknown scenario %q", name)
}

// negative is the first flag whose number is below 0, or "".
func negative(cmd *cli.Command) string {
	for _, f := range cmd.Flags {
		name := f.Names()[0]
		if cmd.IsSet(name) && (cmd.Int(name) < 0 || cmd.Float(name) < 0 || cmd.Duration(name) < 0) {
			return name
		}
	}
	return ""
}

// numbers refuses numbers that make no sense, before anything runs.
func numbers(cmd *cli.Command, positive ...string) error {
	if name := negative(cmd); name != "" {
		return usage("", "--%s cannot be negative", name)
	}
	for _, name := range positive {
		if cmd.IsSet(name) && cmd.Int(name) == 0 && cmd.Float(name) == 0 && cmd.Duration(name) == 0 {
			return usage("", "--%s must be more than 0", name)
		}
	}
	return nil
}
