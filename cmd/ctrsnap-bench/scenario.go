package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/report"
	"github.com/ctrsnap/ctrsnap/bench/scenario"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// verification is the scenario that ends every run: no golden may have changed.
const verification = "goldens"

// about says what each scenario measures.
var about = map[string]string{
	"cold":       "clones that nobody prepared, beside a bare server",
	"size":       "clones of a golden of 5 GiB, beside those of a small one",
	"template":   "clones beside copies that a server makes of a database itself",
	"destroy":    "until nothing is left of a clone",
	"firstwrite": "the first write into a table of gigabytes, beside a small one",
	"network":    "what the network of clones costs, and the ways to one",
	"query":      "rates of pgbench in a clone, beside a bare server",
	"claim":      "`ctrsnap clone` on a warm pool, beside a program that does nothing",
	"pool":       "callers who come at random, beside what a simulation predicts",
	"peers":      "all other ways to get a database with the same data",
	"throughput": "clones per second and per second of a processor, beside runc",
	"density":    "many clones at once, and what each takes",
	"scale":      "how cost grows with clones, goldens, their depth and files, and callers",
	verification: "that no golden has changed; every run ends with it",
	"all":        "all of these",
}

func all() *options { return &options{of: scenario.All} }

// scenarioCommands are one for each scenario.
func scenarioCommands() []*cli.Command {
	var commands []*cli.Command
	for _, name := range append(all().names(), "all") {
		commands = append(commands, scenarioCommand(name))
	}
	return commands
}

// output is how results are printed and kept.
type output struct {
	format, save string
	gobench      bool
}

func scenarioCommand(name string) *cli.Command {
	o, out := all(), &output{}
	return &cli.Command{
		Name:      name,
		Category:  "scenarios",
		Usage:     about[name],
		ArgsUsage: "[SCENARIO…]",
		Description: `Further scenarios run in the same run. It ends with exit code 1 if anything was
incorrect, never because of a time.

   ctrsnap bench ` + name + ` --quick
   ctrsnap bench ` + name + ` -o json > before.json
   ctrsnap bench ` + name + ` --save out     # results.json, report.html, report.md and pictures`,
		Flags: append(o.flags(20*time.Second, 20*time.Minute),
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table, json, markdown or gobench", Destination: &out.format},
			&cli.BoolFlag{Name: "gobench", Usage: "the same as -o gobench: for benchstat", Destination: &out.gobench},
			&cli.StringFlag{Name: "save", Usage: "write results and reports into `DIR`", Destination: &out.save},
			&cli.BoolFlag{Name: "running", Usage: "measure the daemon that runs, with its goldens left alone, in place of one of the run's own", Destination: &o.running},
			&cli.StringFlag{Name: "golden", Usage: "`NAME` of a golden of your own in the daemon that runs, to measure in place of those that the run builds; implies --running", Destination: &o.env.Golden},
			&cli.StringFlag{Name: "host", Aliases: []string{"H"}, Value: api.DefaultHost, Usage: "with --running: `ADDRESS` of the daemon", Sources: cli.EnvVars("CTRSNAP_HOST"), Destination: &o.host},
			&cli.StringFlag{Name: "config", Usage: "with --running: `FILE` of its configuration; default /etc/ctrsnap/ctrsnapd.toml", Destination: &o.config},
		),
		Action: func(ctx context.Context, cmd *cli.Command) error {
			if err := errors.Join(o.check(cmd), o.checkGolden(cmd), out.check()); err != nil {
				return err
			}
			if name != "all" {
				o.only = append([]string{name, verification}, cmd.Args().Slice()...)
			} else if cmd.Args().Present() {
				return usage("", "unexpected argument %q: all are all", cmd.Args().First())
			}
			if out.save != "" {
				o.keep = func(results []bench.Result) error { return report.Save(out.save, results) }
			}
			return o.run(ctx, func(results []bench.Result) error { return out.print(results, o.only) })
		},
	}
}

// printers write results in each format.
var printers = map[string]func([]bench.Result) error{
	"table":    table,
	"json":     func(r []bench.Result) error { return report.JSON(os.Stdout, r) },
	"markdown": func(r []bench.Result) error { return report.Markdown(os.Stdout, r) },
	"gobench":  func(r []bench.Result) error { return report.Gobench(os.Stdout, r) },
}

func (o *output) check() error {
	if o.gobench {
		o.format = "gobench"
	}
	if printers[o.format] == nil {
		return usage("want table, json, markdown or gobench", "unknown output %q", o.format)
	}
	return nil
}

// print prints what was asked for. What the verification of the goldens has found
// belongs to the one scenario that ran beside it.
func (o *output) print(results []bench.Result, asked []string) error {
	err := report.Validate(results)
	if err != nil { // they are shown all the same
		err = fmt.Errorf("results are not as they should be: %w", err)
	}
	if n := len(results); n == 2 && results[1].Scenario == verification && !slices.Contains(asked[2:], verification) {
		results[0].Errors = append(results[0].Errors, results[1].Errors...)
		results = results[:1]
	}
	return errors.Join(err, printers[o.format](results))
}

// description is that of the whole program.
var description = strings.TrimSpace(`
Each scenario is also a check: clones must answer with the right rows, and goldens must not change.

   ctrsnap bench all --quick
   ctrsnap bench pool density --save runs
   ctrsnap bench compare before.json after.json
   ctrsnap plan --from runs --tests-per-day 20000 --lifetime 30s`)
