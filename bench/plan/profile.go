// Package plan says from recorded runs how many runners a load needs, how large
// their pools are to be, and what runs out first, with the arithmetic.
package plan

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
)

// Schema is the value of a profile's "schema" field.
const Schema = 1

// restMS is runtime/pool's pause after a claim, in milliseconds.
const restMS = 50

// backlog is runtime/manager's bound of clones that wait for their removal, for each
// that is removed at a time.
const backlog = 8

// bridgePorts is how many clones a Linux bridge takes: BR_MAX_PORTS in the
// kernel's net/bridge/br_private.h, less one for the host.
const bridgePorts = 1023

// Profile is what a machine does with a golden: what a plan needs of the runs
// that were recorded there. Durations are milliseconds.
type Profile struct {
	Schema  int           `json:"schema"`
	Machine bench.Machine `json:"machine"`
	Golden  string        `json:"golden"`
	Noisy   bool          `json:"noisy"`
	Quick   bool          `json:"quick"` // one of the runs was a smoke run

	Hit       []float64 `json:"hit_ms"`    // of claims that found a member
	Make      []float64 `json:"make_ms"`   // of clones, alone on the machine
	Remove    []float64 `json:"remove_ms"` // until nothing is left
	HitCPU    float64   `json:"hit_cpu_ms"`
	MakeCPU   float64   `json:"make_cpu_ms"`
	RemoveCPU float64   `json:"remove_cpu_ms"`
	// Contention is how many times that the steps take of the processors while others
	// are under way: caches and locks are shared. 0, of older recordings, is 1.
	Contention float64 `json:"contention,omitempty"`

	CloneBytes float64 `json:"clone_bytes"` // memory of an idle clone, all counted
	CloneDisk  float64 `json:"clone_disk_bytes"`
	Addresses  int     `json:"addresses"`
	Refill     int     `json:"refill"` // members that are made at a time
	Slots      int     `json:"slots"`  // clones that are made at a time in all
}

// ErrIncomplete says that the recorded runs lack what a plan needs.
var ErrIncomplete = errors.New("recorded runs are incomplete")

// FromResults takes a Profile from recorded runs: those of the scenarios pool and
// density are needed. Of several, the last counts. golden is the user's own that they were of;
// "" is those that runs build, or the only one that there is.
func FromResults(results []bench.Result, golden string) (Profile, error) {
	p := Profile{Schema: Schema, Addresses: bridgePorts}
	results, err := of(results, golden)
	if err != nil {
		return p, err
	}
	var missing []string
	take := func(scenario, series string, use func(bench.Series)) {
		if !find(results, scenario, series, use) {
			missing = append(missing, scenario+"/"+series)
		}
	}
	median := func(to *float64) func(bench.Series) { return func(s bench.Series) { *to = s.P50 } }
	samples := func(to *[]float64) func(bench.Series) {
		return func(s bench.Series) { *to, p.Golden = s.Samples, s.Golden }
	}
	take("pool", "hit", samples(&p.Hit))
	take("pool", "make", samples(&p.Make))
	take("pool", "remove", samples(&p.Remove))
	take("pool", "hit_cpu", median(&p.HitCPU))
	take("pool", "make_cpu", median(&p.MakeCPU))
	take("pool", "remove_cpu", median(&p.RemoveCPU))
	find(results, "pool", "contention", median(&p.Contention)) // of newer recordings
	take("density", "answering_per_gib", func(s bench.Series) { p.CloneBytes = (1 << 30) / s.P50 })
	take("density", "disk_bytes_per_clone", median(&p.CloneDisk))
	if len(missing) > 0 {
		return p, fmt.Errorf("%w: no %s: run '%s'", ErrIncomplete, strings.Join(missing, ", "), command(results[0].Golden))
	}
	for _, r := range results {
		if r.Scenario == "pool" {
			p.Machine, p.Noisy = r.Machine, r.Noisy
		}
		if r.Scenario == "pool" || r.Scenario == "density" {
			p.Quick = p.Quick || r.Quick
		}
	}
	p.Refill, p.Slots = Defaults(p.Machine.CPUs)
	return p, p.Check()
}

// of picks the runs of one golden, of which there is at least one.
func of(results []bench.Result, golden string) (picked []bench.Result, err error) {
	var own []string // "": none
	for _, r := range results {
		if !slices.Contains(own, r.Golden) {
			own = append(own, r.Golden)
		}
	}
	switch {
	case golden == "" && !slices.Contains(own, "") && len(own) > 1:
		return nil, fmt.Errorf("%w: runs of goldens %s: say which by --golden", ErrIncomplete, strings.Join(own, ", "))
	case golden == "" && len(own) == 1:
		golden = own[0]
	}
	for _, r := range results {
		if r.Golden == golden {
			picked = append(picked, r)
		}
	}
	if len(picked) == 0 {
		return nil, fmt.Errorf("%w: no run of golden %s: run '%s'", ErrIncomplete, golden, command(golden))
	}
	return picked, nil
}

// command is what records the runs that a plan needs.
func command(golden string) string {
	if golden == "" {
		return "ctrsnap bench pool density --save DIR"
	}
	return "ctrsnap bench pool density --golden " + golden + " --save DIR"
}

// Defaults are how many clones a daemon without configuration makes at a time, for its
// pool and in all, on so many processors: see runtime/manager.
func Defaults(cpus int) (refill, slots int) { return max(1, cpus/2), 2 * cpus }

func find(results []bench.Result, scenario, name string, use func(bench.Series)) (found bool) {
	for _, r := range results {
		for _, s := range r.Series {
			if r.Scenario == scenario && s.Name == name && s.N > 0 && len(s.At) == 0 {
				use(s)
				found = true
			}
		}
	}
	return found
}

// Check refuses what cannot be computed with, from whatever file it came.
func (p Profile) Check() error {
	switch {
	case p.Schema != Schema:
		return fmt.Errorf("%w: schema %d, want %d", ErrIncomplete, p.Schema, Schema)
	case len(p.Hit) == 0 || len(p.Make) == 0 || len(p.Remove) == 0:
		return fmt.Errorf("%w: no durations", ErrIncomplete)
	case stat.Median(p.Make) <= 0 || stat.Median(p.Remove) <= 0 || stat.Median(p.Hit) <= 0:
		return fmt.Errorf("%w: a duration is 0", ErrIncomplete)
	case p.MakeCPU < 0 || p.RemoveCPU < 0 || p.HitCPU < 0 || p.MakeCPU+p.RemoveCPU <= 0:
		return fmt.Errorf("%w: no processor time", ErrIncomplete)
	case p.Contention < 0 || math.IsNaN(p.Contention) || math.IsInf(p.Contention, 0):
		return fmt.Errorf("%w: no contention", ErrIncomplete)
	case p.CloneBytes <= 0 || p.CloneDisk < 0 || p.Machine.CPUs <= 0 || p.Machine.MemoryBytes <= 0:
		return fmt.Errorf("%w: no sizes", ErrIncomplete)
	case p.Refill <= 0 || p.Slots <= 0 || p.Addresses <= 0:
		return fmt.Errorf("%w: no limits of the daemon", ErrIncomplete)
	}
	return nil
}

// contention is Contention, or 1.
func (p Profile) contention() float64 {
	if p.Contention == 0 {
		return 1
	}
	return p.Contention
}

// Model is a runner of that kind with a pool of so many members. Contention makes its
// processors fewer, not its steps longer: a step that is alone takes what it took alone.
func (p Profile) Model(pool int) sim.Model {
	return sim.Model{
		Pool: pool, Refill: p.Refill, Slots: p.Slots, Removers: p.Slots, Backlog: backlog * p.Slots, Rest: restMS / 1e3,
		Cores: float64(p.Machine.CPUs) / p.contention(),
		Claim: chain(Step(p.Hit, p.HitCPU)), Make: Step(p.Make, p.MakeCPU), Remove: Step(p.Remove, p.RemoveCPU),
	}
}

// chain is a step whose processes wait for each other: the caller, the daemon, the server. One at
// a time works, and what is done beside them nobody waits for. (A hit is over within the kernel's
// tick, by which it counts the processors' time: so many of them are measured that their sum means
// something, but not what part of a processor each has.)
func chain(s sim.Step) sim.Step {
	s.CPUs = 1
	return s
}

// Step is work that took so many milliseconds and cpu of processor time.
func Step(ms []float64, cpu float64) sim.Step {
	seconds, sum := make([]float64, len(ms)), 0.0
	for i, v := range ms {
		seconds[i] = v / 1e3
		sum += v
	}
	return sim.Step{Takes: sim.Sampled(seconds), CPUs: cpu / (sum / float64(len(ms)))}
}
