package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/report"
	"github.com/ctrsnap/ctrsnap/bench/rig"
	"github.com/ctrsnap/ctrsnap/bench/scenario"
	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// options are those of a run.
type options struct {
	of               func(*scenario.Env) []bench.Scenario // what there is to run
	env              scenario.Env
	bin, dir, out    string
	daemon, baseline []string
	only             []string
	budget           time.Duration
	renew            func(context.Context) error // after a scenario that failed
	keep             func([]bench.Result) error  // after each scenario; nil: nothing is kept
	running          bool                        // measure the daemon that runs, at host, with its configuration
	host, config     string
}

// quickCounts are those of a smoke run, unless others are asked for.
var quickCounts = map[string]int{"clones": 10, "claims": 24}

// flags are those of every run. span and budget are defaults.
func (o *options) flags(span, budget time.Duration) []cli.Flag {
	return []cli.Flag{
		&cli.BoolFlag{Name: "quick", Usage: "a smoke run of seconds, with small goldens", Destination: &o.env.Quick},
		&cli.StringFlag{Name: "bin", Usage: "`DIR` of the programs under test; default that of this program", Destination: &o.bin},
		&cli.StringFlag{Name: "dir", Value: "/var/tmp", Usage: "`DIR` on the disk that is measured", Destination: &o.dir},
		&cli.StringFlag{Name: "postgres", Usage: "`PREFIX` of PostgreSQL; default the system's", Sources: cli.EnvVars("CTRSNAP_TEST_POSTGRES"), Destination: &o.env.Postgres},
		&cli.StringFlag{Name: "pg18", Usage: "`PREFIX` of PostgreSQL 18, for its templates", Sources: cli.EnvVars("CTRSNAP_PG18"), Destination: &o.env.PG18},
		&cli.StringFlag{Name: "engine", Usage: "`NAME` of an engine other than postgres, for goldens of it; of the scenarios there are then " + strings.Join(scenario.AnyEngine(), ", "), Destination: &o.env.Engine},
		&cli.StringFlag{Name: "from-host", Usage: "`PREFIX` of PostgreSQL 18, as --pg18; with --engine: of its programs, default the system's", Destination: &o.env.Prefix},
		&cli.StringFlag{Name: "init", Usage: "with --engine: `FILE` that fills the goldens; default nothing", TakesFile: true, Destination: &o.env.Init},
		&cli.StringSliceFlag{Name: "daemon", Usage: "`TABLE.KEY=VALUE` for the configuration under test (repeatable)", Destination: &o.daemon},
		&cli.StringSliceFlag{Name: "baseline", Value: []string{`containerd.runtime="runc"`}, Usage: "`TABLE.KEY=VALUE` that makes the stock runtime without a pool (repeatable)", Destination: &o.baseline},
		&cli.IntFlag{Name: "clones", Value: 500, Usage: "how many live at once in scenario density; 10 with --quick", Destination: &o.env.Clones},
		&cli.IntFlag{Name: "claims", Value: 2000, Usage: "how many in scenario claims; 24 with --quick", Destination: &o.env.Claims},
		&cli.IntFlag{Name: "restarts", Value: 4, Usage: "of the daemon in scenario claims", Destination: &o.env.Restarts},
		&cli.DurationFlag{Name: "span", Value: span, Usage: "how long the rounds of one comparison may take", Destination: &o.env.Span},
		&cli.DurationFlag{Name: "budget", Value: budget, Usage: "no scenario begins later, and claims end there", Destination: &o.budget},
	}
}

// check refuses what makes no sense, before anything runs.
func (o *options) check(cmd *cli.Command) error {
	o.smoke(cmd)
	if o.env.PG18 == "" && (o.env.Engine == "" || o.env.Engine == "postgres") {
		o.env.PG18, o.env.Prefix = o.env.Prefix, ""
	}
	if err := numbers(cmd, "clones", "claims", "span", "budget"); err != nil {
		return err
	}
	for flag, prefix := range map[string]string{"postgres": o.env.Postgres, "pg18": o.env.PG18} {
		if _, err := os.Stat(filepath.Join(prefix, "bin", "postgres")); prefix != "" && err != nil {
			return usage("want a directory with bin/postgres", "--%s: %v", flag, err)
		}
	}
	return nil
}

// checkGolden refuses what says how to build goldens beside one that is there.
func (o *options) checkGolden(cmd *cli.Command) error {
	if !cmd.IsSet("golden") {
		return nil
	}
	if err := goldenName(o.env.Golden); err != nil {
		return err
	}
	if o.env.Engine != "" || o.env.Init != "" {
		return usage("", "--golden is one that is there: --engine and --init are for those that the run builds")
	}
	o.running = true
	return nil
}

// goldenName refuses what names no golden, as a variable of a script that is empty.
func goldenName(name string) error {
	if err := snapshot.ValidateName(name); err != nil {
		return usage("a name without a version: pools are of the current one", "--golden: %v", err)
	}
	return nil
}

// smoke makes the counts those of a smoke run, if it is one.
func (o *options) smoke(cmd *cli.Command) {
	for name, n := range map[string]*int{"clones": &o.env.Clones, "claims": &o.env.Claims} {
		if o.env.Quick && !cmd.IsSet(name) {
			*n = quickCounts[name]
		}
	}
}

// names lists what there is to run.
func (o *options) names() []string {
	var all []string
	for _, s := range o.of(nil) {
		all = append(all, s.Name())
	}
	return all
}

// run measures and has show say what was found.
func (o *options) run(ctx context.Context, show func([]bench.Result) error) (err error) {
	scenarios, err := o.prepare()
	if err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return &api.Error{Code: api.CodeNotAllowed, Message: "needs root: it mounts filesystems and makes network namespaces, or reads what the daemon's clones are"}
	}
	if o.env.Rig, err = o.rig(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.env.Rig.Close(ctx)) }()
	if err := o.env.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.env.Close(ctx)) }()
	o.renew = o.env.Renew
	results, err := o.measure(ctx, scenarios)
	return errors.Join(err, show(results), incorrect(results))
}

// rig is a daemon of the run's own, or the one that runs.
func (o *options) rig() (*rig.Rig, error) {
	if !o.running {
		return rig.New(o.bin, o.dir)
	}
	c, err := config.Load(o.config)
	if err != nil {
		return nil, err
	}
	o.env.Baseline = nil // it is not restarted
	return rig.Attach(o.bin, o.dir, rig.Running{Host: o.host, Root: c.Root, State: c.State})
}

func table(results []bench.Result) error { return report.Table(os.Stdout, results) }

// prepare completes the options and chooses the scenarios.
func (o *options) prepare() (chosen []bench.Scenario, err error) {
	if o.bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		o.bin = filepath.Dir(exe)
	}
	o.env.Progress, o.env.Deadline = os.Stderr, time.Now().Add(o.budget)
	if o.env.Daemon, err = configuration(o.daemon); err != nil {
		return nil, err
	}
	if len(o.baseline) > 0 {
		if o.env.Baseline, err = configuration(o.baseline); err != nil {
			return nil, err
		}
	}
	for _, name := range o.only {
		if !slices.Contains(o.names(), name) {
			return nil, unknownScenario(name, o.names())
		}
	}
	if err := o.checkEngine(); err != nil {
		return nil, err
	}
	for _, s := range o.of(&o.env) {
		if o.env.Engine != "" && !slices.Contains(scenario.AnyEngine(), s.Name()) {
			continue // of all
		}
		if len(o.only) == 0 || slices.Contains(o.only, s.Name()) {
			chosen = append(chosen, s)
		}
	}
	return chosen, nil
}

// checkEngine refuses scenarios that an engine cannot have.
func (o *options) checkEngine() error {
	if o.env.Engine == "postgres" {
		o.env.Engine = "" // what there is without
	}
	if o.env.Engine == "" {
		if o.env.Prefix != "" || o.env.Init != "" {
			return errors.New("--init, and --from-host beside --pg18, are for --engine: the goldens of postgres are made by the scenarios")
		}
		return nil
	}
	for _, name := range o.only {
		if !slices.Contains(scenario.AnyEngine(), name) {
			return fmt.Errorf("scenario %s needs PostgreSQL: with --engine %s there are %s", name, o.env.Engine, strings.Join(scenario.AnyEngine(), ", "))
		}
	}
	return nil
}

// configuration makes TABLE.KEY=VALUE lines of each table.
func configuration(settings []string) (rig.Config, error) {
	c := rig.Config{}
	for _, s := range settings {
		key, value, ok := strings.Cut(s, "=")
		table, name, dotted := strings.Cut(key, ".")
		if !ok || !dotted || table == "" || name == "" {
			return nil, usage("want TABLE.KEY=VALUE, with VALUE as in TOML", "invalid setting %q", s)
		}
		c[table] += name + " = " + value + "\n"
	}
	return c, nil
}

// measure runs the scenarios. One that fails does not keep the others from
// running.
func (o *options) measure(ctx context.Context, scenarios []bench.Scenario) (results []bench.Result, err error) {
	for _, s := range scenarios {
		if ctx.Err() != nil {
			return results, errors.Join(err, ctx.Err())
		}
		fmt.Fprintf(os.Stderr, "scenario %s\n", s.Name())
		r, runErr := s.Run(ctx)
		results = append(results, r)
		if o.keep != nil {
			err = errors.Join(err, o.keep(results)) // a run that is ended early leaves what it has
		}
		if runErr != nil {
			err = errors.Join(err, runErr)
			fmt.Fprintf(os.Stderr, "%v\n%s\n", runErr, o.env.Rig.LogTail())
			if rerr := o.renew(ctx); rerr != nil && ctx.Err() == nil {
				return results, errors.Join(err, fmt.Errorf("after scenario %s: %w", s.Name(), rerr))
			}
		}
	}
	return results, err
}

// write replaces the file of results by a whole new one.
func (o *options) write(results []bench.Result) error {
	b, err := json.MarshalIndent(results, "", " ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	if err := os.WriteFile(o.out+".new", append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return os.Rename(o.out+".new", o.out)
}

// incorrect says that something was, wherever it was found.
func incorrect(results []bench.Result) error {
	n := 0
	for _, r := range results {
		n += len(r.Errors)
	}
	if n > 0 {
		return fmt.Errorf("%d errors: see above", n)
	}
	return nil
}
