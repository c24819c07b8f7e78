package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
)

// planOptions are those of a plan.
type planOptions struct {
	load               plan.Load
	from               []string
	golden             string
	machine, save      string
	trace, format      string
	written, jobMemory string
	refill             int
}

func planCommand() *cli.Command {
	o := &planOptions{}
	return &cli.Command{
		Name:  "plan",
		Usage: "say how many runners a load needs, from recorded runs",
		Description: `It needs runs of the scenarios pool and density, which --from names, or a profile of a
machine that was measured elsewhere.

   ctrsnap bench pool density --save bench/out
   ctrsnap plan --tests-per-day 20000 --lifetime 30s --written 20MiB
   ctrsnap plan --arrivals trace.txt --parallel 64 --save machine.json
   ctrsnap plan --machine machine.json --tests-per-day 500000 --lifetime 12s

Of a golden of your own, in the daemon that runs:

   ctrsnap bench pool density --golden shop --save runs
   ctrsnap plan --golden shop --from runs --tests-per-day 20000 --lifetime 30s`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "from", Value: []string{"bench/out"}, Usage: "`FILE` or directory of recorded runs (repeatable)", Destination: &o.from},
			&cli.StringFlag{Name: "golden", Usage: "`NAME` of a golden of your own, of which runs were recorded with --golden; default those that runs build", Destination: &o.golden},
			&cli.StringFlag{Name: "machine", Usage: "`FILE` with the profile of a machine, in place of --from", Destination: &o.machine},
			&cli.StringFlag{Name: "save", Usage: "write the machine's profile into `FILE`", Destination: &o.save},
			&cli.FloatFlag{Name: "tests-per-day", Usage: "`N` clones that are asked for in a day", Destination: &o.load.PerDay},
			&cli.FloatFlag{Name: "peak", Value: 3, Usage: "the busiest hour over the mean", Destination: &o.load.Peak},
			&cli.StringFlag{Name: "arrivals", Usage: "`FILE` with an arrival a line, in seconds or as RFC 3339, and how many seconds the clone is kept", Destination: &o.trace},
			&cli.DurationFlag{Name: "lifetime", Usage: "how long a test keeps its clone, on average", Destination: &o.load.Lifetime},
			&cli.IntFlag{Name: "parallel", Usage: "`N` tests run at a time, on all runners; default any number", Destination: &o.load.Parallel},
			&cli.StringFlag{Name: "written", Value: "0", Usage: "`SIZE` that a test writes into its clone, as in 20MiB", Destination: &o.written},
			&cli.StringFlag{Name: "test-memory", Value: "0", Usage: "`SIZE` of memory that a test takes on the runner beside its clone", Destination: &o.jobMemory},
			&cli.FloatFlag{Name: "test-cpus", Usage: "`N` processors that a test and its queries keep busy on the runner", Destination: &o.load.JobCPUs},
			&cli.IntFlag{Name: "refill", Usage: "`N` clones that the pool makes at a time (pool.parallel); default half the processors", Destination: &o.refill},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT`: text or json", Destination: &o.format},
		},
		Action: func(_ context.Context, cmd *cli.Command) error {
			if cmd.Args().Present() {
				return usage("see ctrsnap plan --help", "unexpected argument %q", cmd.Args().First())
			}
			if err := numbers(cmd, "tests-per-day", "lifetime", "refill"); err != nil {
				return err
			}
			if err := contradiction(cmd); err != nil {
				return err
			}
			if cmd.IsSet("golden") {
				if err := goldenName(o.golden); err != nil {
					return err
				}
			}
			return o.run()
		},
	}
}

// contradiction refuses flags of which one would not count, and a peak that is none.
func contradiction(cmd *cli.Command) error {
	for _, pair := range [][2]string{{"machine", "from"}, {"arrivals", "tests-per-day"}, {"arrivals", "peak"}} {
		if cmd.IsSet(pair[0]) && cmd.IsSet(pair[1]) {
			return usage("leave one of them out", "--%s is in place of --%s", pair[0], pair[1])
		}
	}
	if cmd.Float("peak") < 1 {
		return usage("it is the busiest hour over the mean one", "--peak must be at least 1")
	}
	return nil
}

func (o *planOptions) run() error {
	if o.format != "text" && o.format != "json" {
		return usage("want text or json", "unknown output %q", o.format)
	}
	if err := o.complete(); err != nil {
		return err
	}
	p, err := o.profile()
	if err != nil {
		return err
	}
	if o.refill > 0 {
		p.Refill, p.Slots = o.refill, max(p.Slots, o.refill)
	}
	if o.save != "" {
		if err := saveProfile(o.save, p); err != nil {
			return err
		}
		if o.load.PerDay == 0 && o.trace == "" { // it was all that was asked for
			return nil
		}
	}
	a, err := plan.Make(p, o.load)
	if err != nil {
		return err
	}
	if o.format == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", " ")
		return e.Encode(a)
	}
	return plan.Text(os.Stdout, p, o.load, a)
}

// complete reads what the flags name.
func (o *planOptions) complete() error {
	var written, memory config.Size
	if err := written.UnmarshalText([]byte(o.written)); err != nil {
		return usage("", "--written: %v", err)
	}
	if err := memory.UnmarshalText([]byte(o.jobMemory)); err != nil {
		return usage("", "--test-memory: %v", err)
	}
	o.load.Written, o.load.JobMemory = int64(written), int64(memory)
	if o.trace == "" {
		return nil
	}
	f, err := os.Open(o.trace)
	if err != nil {
		return fmt.Errorf("read arrivals: %w", err)
	}
	defer f.Close()
	if o.load.Trace, err = plan.ReadTrace(f, max(o.load.Lifetime, 0*time.Second)); err != nil {
		return fmt.Errorf("read arrivals %s: %w", o.trace, err)
	}
	return nil
}

// profile is that of a file, or made of recorded runs.
func (o *planOptions) profile() (p plan.Profile, err error) {
	if o.machine != "" {
		b, err := os.ReadFile(o.machine)
		if err != nil {
			return p, fmt.Errorf("read profile: %w", err)
		}
		if err := json.Unmarshal(b, &p); err != nil {
			return p, fmt.Errorf("read profile %s, which plan --save writes: %w", o.machine, err)
		}
		if err := p.Check(); err != nil {
			return p, fmt.Errorf("read profile %s, which plan --save writes: %w", o.machine, err)
		}
		if o.golden != "" && o.golden != p.Golden {
			return p, usage("--save writes one of each", "--golden: %s is the profile of a machine with golden %s, not %s", o.machine, p.Golden, o.golden)
		}
		return p, nil
	}
	var results []bench.Result
	for _, path := range o.from {
		r, err := recorded(path)
		if errors.Is(err, os.ErrNotExist) {
			return p, fmt.Errorf("%w: record them with 'ctrsnap bench pool density --save %s'", err, path)
		}
		if err != nil {
			return p, err
		}
		results = append(results, r...)
	}
	return plan.FromResults(results, o.golden)
}

func saveProfile(path string, p plan.Profile) error {
	b, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return fmt.Errorf("encode profile: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("save profile: %w", err)
	}
	return nil
}
