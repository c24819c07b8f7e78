package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// benchProgram does what bench and plan ask for: it may depend on anything,
// while this program starts in a millisecond.
const benchProgram = "ctrsnap-bench"

func (a *app) benchCommand() *cli.Command {
	return &cli.Command{
		Name:            "bench",
		Usage:           "measure clones, and what one would use instead",
		ArgsUsage:       "SCENARIO [SCENARIO…] | compare OLD NEW",
		SkipFlagParsing: true,
		Description: `Runs ctrsnap-bench: 'ctrsnap bench --help' is its own.

   ctrsnap bench all --quick
   ctrsnap bench cold -o json
   ctrsnap bench pool density --save bench/out
   ctrsnap bench compare before.json after.json`,
		Action: func(_ context.Context, cmd *cli.Command) error { return a.execBench(cmd.Args().Slice()...) },
	}
}

func (a *app) planCommand() *cli.Command {
	return &cli.Command{
		Name:            "plan",
		Usage:           "say how many runners a load needs, from recorded runs",
		SkipFlagParsing: true,
		Description: `Runs ctrsnap-bench: 'ctrsnap plan --help' is its own.

   ctrsnap bench pool density --save bench/out
   ctrsnap plan --tests-per-day 20000 --lifetime 30s --written 20MiB`,
		Action: func(_ context.Context, cmd *cli.Command) error {
			return a.execBench(append([]string{"plan"}, cmd.Args().Slice()...)...)
		},
	}
}

// execBench becomes ctrsnap-bench.
func (a *app) execBench(args ...string) error {
	program, err := a.findBench()
	if err != nil {
		return &api.Error{
			Code: api.CodeNotFound, Message: benchProgram + " is not installed",
			Hint: "'make install' puts it beside ctrsnap, or into ../libexec/ctrsnap",
		}
	}
	env := a.environ()
	if a.host != "" {
		env = append(slices.DeleteFunc(env, func(kv string) bool { return len(kv) > 13 && kv[:13] == "CTRSNAP_HOST=" }), "CTRSNAP_HOST="+a.host)
	}
	return syscall.Exec(program, append([]string{benchProgram}, args...), env)
}

// findBench looks beside this program, then where `make install` puts it.
func (a *app) findBench() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	here := filepath.Dir(exe)
	for _, dir := range []string{here, filepath.Join(here, "..", "libexec", "ctrsnap")} {
		path, err := exec.LookPath(filepath.Join(dir, benchProgram))
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fs.ErrNotExist
}
