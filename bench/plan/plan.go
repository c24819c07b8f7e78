package plan

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
)

const (
	// reserve is the memory that is left to the system.
	reserve = 2 << 30
	// full is the part of a disk, of the processors' time and of the pool's that is
	// planned with: what is fuller than that gets slow.
	full = 0.8
	// simulated is how many callers each simulation has, and tries how many with
	// other chances are run for a figure that is reported.
	simulated = 8_000
	tries     = 5
	// slack is how much longer than at a quiet moment the 99th percentile of claims
	// may take to be called instant: a claim shares the processors.
	slack = 2
	// maxRunners bounds the search.
	maxRunners = 100_000
)

// Resource is something that runs out.
type Resource struct {
	Name string `json:"name"`
	// Limit is how much of the load one runner can carry by it alone, in clones at a
	// time or in claims per second, by Unit.
	Limit float64 `json:"limit"`
	Unit  string  `json:"unit"`
	Used  float64 `json:"used"` // part of Limit that the load takes, on each runner
	Why   string  `json:"why"`  // the arithmetic
}

// Answer is a plan.
type Answer struct {
	Schema  int     `json:"schema"`
	Rate    float64 `json:"claims_per_second"` // of all runners, in the busiest hour
	Live    float64 `json:"live_clones"`       // on all of them, on average then
	Clones  int     `json:"clones_per_runner"` // that fit, those that wait included
	Pool    int     `json:"pool_size"`         // of each
	Runners int     `json:"runners"`
	// Claims are percentiles that the simulation predicts, in milliseconds.
	Claims    map[string]float64 `json:"claim_ms"`
	Hits      float64            `json:"hits"` // part of the claims that finds a member
	Busy      float64            `json:"busy"` // part of the processors' time
	First     string             `json:"runs_out_first"`
	Resources []Resource         `json:"resources"` // the scarcest first
	Notes     []string           `json:"notes,omitempty"`

	rate, life float64
}

// ErrTooMuch says that no number of runners carries a load.
var ErrTooMuch = errors.New("no number of runners carries this load")

// Make plans. The same profile and load give the same plan.
func Make(p Profile, l Load) (Answer, error) {
	if err := errors.Join(p.Check(), l.check()); err != nil {
		return Answer{}, err
	}
	if cpus := p.Machine.CPUs; l.JobCPUs > float64(cpus) {
		return Answer{}, fmt.Errorf("%w: a test keeps %g processors busy, a runner has %d", ErrTooMuch, l.JobCPUs, cpus)
	}
	a := Answer{Schema: Schema}
	a.rate, a.life = l.rate()
	if l.Parallel > 0 && a.rate*a.life > float64(l.Parallel) {
		most := float64(l.Parallel) / a.life
		a.Notes = append(a.Notes, fmt.Sprintf("%d tests at a time are at most %.3g per second: at peak tests wait for each other, not for clones", l.Parallel, most))
		a.rate = most
	}
	if p.Quick {
		a.Notes = append(a.Notes, "pool or density was run with --quick, with small goldens and few values: run both in full before you buy anything")
	}
	if p.Noisy {
		a.Notes = append(a.Notes, "the recorded run was noisy: others used the machine")
	}
	a.Rate, a.Live = a.rate, l.live(a.rate, a.life)
	a.Clones = int(min(p.memory(l).Limit, p.disk(l).Limit, float64(p.Addresses)))
	if a.Clones < 1 {
		return a, fmt.Errorf("%w: a runner has no room for one clone", ErrTooMuch)
	}
	if err := a.search(p, l); err != nil {
		return a, err
	}
	a.resources(p, l)
	return a, nil
}

// search finds the fewest runners, and then the smallest pool, with which claims
// are instant.
func (a *Answer) search(p Profile, l Load) error {
	least := max(math.Ceil(a.Live/float64(a.Clones)), math.Ceil(a.rate/p.pace(l, a.life)), 1)
	for n := least; n <= maxRunners; n = max(n+1, math.Ceil(n*1.05)) {
		pool, ok := a.poolFor(p, l, int(n))
		if !ok {
			continue
		}
		a.Runners, a.Pool = int(n), pool
		a.predict(p, l)
		return nil
	}
	return fmt.Errorf("%w: it would be more than %d", ErrTooMuch, maxRunners)
}

// poolFor finds the smallest pool with which claims on one of n runners are instant.
func (a *Answer) poolFor(p Profile, l Load, n int) (pool int, ok bool) {
	instant := slack * stat.Quantile(p.Hit, 0.99) / 1e3
	good := func(pool int) bool {
		res := a.simulate(p, l, n, pool, 1)
		return res.Live+pool <= a.Clones && stat.Quantile(res.Latency, 0.99) <= instant
	}
	high := 1
	for !good(high) {
		if high *= 2; high > a.Clones || high > 4096 {
			return 0, false
		}
	}
	low := high / 2 // not good, or 0
	for high-low > 1 {
		if mid := (low + high) / 2; good(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return high, true
}

func (a *Answer) simulate(p Profile, l Load, runners, pool, seed int) sim.Result {
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	m := p.Model(pool)
	m.Use = l.JobCPUs
	return sim.Run(m, l.arrivals(a.rate, a.life, runners, simulated, r), r)
}

// predict runs the plan several times.
func (a *Answer) predict(p Profile, l Load) {
	var all []float64
	hits, busy := 0, 0.0
	for seed := range tries {
		res := a.simulate(p, l, a.Runners, a.Pool, seed+2)
		all = append(all, res.Latency...)
		hits += res.Hits
		busy += res.Busy / tries
	}
	a.Hits, a.Busy = float64(hits)/float64(len(all)), busy
	a.Claims = map[string]float64{}
	for name, q := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99} {
		a.Claims[name] = 1e3 * stat.Quantile(all, q)
	}
}

// resources says how much of each resource the load takes.
func (a *Answer) resources(p Profile, l Load) {
	each := a.Live/float64(a.Runners) + float64(a.Pool)
	rate := a.rate / float64(a.Runners)
	used := func(r Resource, amount float64) {
		r.Used = amount / r.Limit
		a.Resources = append(a.Resources, r)
	}
	used(p.memory(l), each)
	used(p.disk(l), each)
	used(Resource{Name: "addresses", Limit: float64(p.Addresses), Unit: "clones", Why: "a Linux bridge has 1,024 ports, one is the host's"}, each)
	used(p.cpu(l, a.life), rate)
	used(p.refill(), rate)
	slices.SortStableFunc(a.Resources, func(x, y Resource) int {
		switch {
		case x.Used > y.Used:
			return -1
		case x.Used < y.Used:
			return 1
		}
		return 0
	})
	a.First = a.Resources[0].Name
}
