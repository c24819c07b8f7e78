package sim_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
)

func source() *rand.Rand { return rand.New(rand.NewPCG(7, 8)) }

func poisson(rate float64, n int, keeps sim.Dist) []sim.Arrival {
	return sim.Arrivals(load.Poisson(rate, n, rand.New(rand.NewPCG(11, 12))), keeps, rand.New(rand.NewPCG(9, 10)))
}

// erlangC is the part of the callers who wait in a queue M/M/c that is offered
// a erlangs: see Gross and Harris, Fundamentals of Queueing Theory, 2.4.
func erlangC(c int, a float64) float64 {
	term, sum := 1.0, 0.0
	for k := range c {
		sum += term
		term *= a / float64(k+1)
	}
	last := term * float64(c) / (float64(c) - a)
	return last / (sum + last)
}

func near(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("%s: got %g, want %g", what, got, want)
	}
}

// waits compares waits with those of M/M/c, c servers of one per second: a part of
// erlangC waits, exponentially with c-rate per second.
func waits(t *testing.T, c int, rate float64, waited []float64) {
	t.Helper()
	some, sum := 0, 0.0
	for _, s := range waited {
		sum += s
		if s > 1e-9 {
			some++
		}
	}
	part, rest := erlangC(c, rate), float64(c)-rate
	near(t, "part that waits", float64(some)/float64(len(waited)), part, 0.05)
	near(t, "mean wait", sum/float64(len(waited)), part/rest, 0.08)
	near(t, "p99", stat.Quantile(waited, 0.99), math.Log(part/0.01)/rest, 0.08)
}

// Without a pool, the slots are the servers of M/M/c.
func TestSlotsAreMMc(t *testing.T) {
	for _, c := range []int{1, 3, 8} {
		rate := 0.8 * float64(c)
		callers := poisson(rate, 300_000, sim.Constant(0))
		m := sim.Model{Slots: c, Make: sim.Step{Takes: sim.Exponential(1)}}
		res := sim.Run(m, callers, source())
		part, rest := erlangC(c, rate), float64(c)-rate
		near(t, "mean time in the system", mean(res.Latency), part/rest+1, 0.03)
		if res.Made != len(callers) || res.Hits != 0 {
			t.Errorf("made %d, hits %d", res.Made, res.Hits)
		}
		if c == 1 { // exponential with 1-rate per second
			near(t, "p99", stat.Quantile(res.Latency, 0.99), math.Log(100)/(1-rate), 0.08)
		}
	}
}

// Where clones are made in no time, those that may live at a time are the servers,
// and lifetimes the service.
func TestLivesAreMMc(t *testing.T) {
	for _, c := range []int{1, 4, 20} {
		rate := 0.85 * float64(c)
		m := sim.Model{Slots: 1 << 20, Live: c}
		res := sim.Run(m, poisson(rate, 400_000, sim.Exponential(1)), source())
		waits(t, c, rate, res.Latency)
		if res.Live != c {
			t.Errorf("%d lived at a time", res.Live)
		}
	}
}

// A base stock of N that one maker refills runs out as often as M/M/1 has N or more
// in it: rho^N (Buzacott and Shanthikumar, Stochastic Models of Manufacturing
// Systems, 4.3). Whoever finds none waits for the next, as long as in M/M/1.
func TestPoolIsMakeToStock(t *testing.T) {
	const rho = 0.8
	for _, n := range []int{1, 4, 10} {
		m := sim.Model{Pool: n, Refill: 1, Slots: 1, Make: sim.Step{Takes: sim.Exponential(1)}}
		res := sim.Run(m, poisson(rho, 400_000, sim.Constant(0)), source())
		empty := math.Pow(rho, float64(n))
		near(t, "part that finds none", 1-float64(res.Hits)/400_000, empty, 0.06)
		near(t, "mean wait", mean(res.Latency), empty/(1-rho), 0.08)
	}
}

// Processors that are shared alike are a queue M/G/1-PS: the mean time in the
// system is that of M/M/1 whatever the distribution of the work.
func TestProcessorSharing(t *testing.T) {
	const rho = 0.7
	for name, takes := range map[string]sim.Dist{"exponential": sim.Exponential(1), "constant": sim.Constant(1)} {
		m := sim.Model{Slots: 1 << 20, Cores: 1, Make: sim.Step{Takes: takes, CPUs: 1}}
		res := sim.Run(m, poisson(rho, 200_000, sim.Constant(0)), source())
		near(t, name, mean(res.Latency), 1/(1-rho), 0.06)
		near(t, name+" busy", res.Busy, rho, 0.02)
	}
}

// One caller meets each rule alone.
func TestRules(t *testing.T) {
	m := sim.Model{
		Pool: 2, Refill: 1, Slots: 2, Rest: 0.5,
		Claim: sim.Step{Takes: sim.Constant(0.01)}, Make: sim.Step{Takes: sim.Constant(1)},
	}
	at := func(times ...float64) []sim.Arrival {
		var all []sim.Arrival
		for _, s := range times {
			all = append(all, sim.Arrival{At: s, Keeps: 0})
		}
		return all
	}
	for name, test := range map[string]struct {
		callers []sim.Arrival
		want    []float64
	}{
		"two wait for callers":                      {at(0, 0), []float64{0.01, 0.01}},
		"the third takes a slot of his own":         {at(0, 0, 0.2), []float64{0.01, 0.01, 1}},
		"the fourth is given the member under way":  {at(0, 0, 0.2, 0.3), []float64{0.01, 0.01, 1, 0.71}},
		"half is there: the pool rests, then makes": {at(0, 1.4, 1.45, 1.46), []float64{0.01, 0.01, 1, 0.05}},
	} {
		got := sim.Run(m, test.callers, source()).Latency
		if !slices.EqualFunc(got, test.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

// Who needs less of the processors than a fair part is not slowed by who needs more.
func TestSharesAreFair(t *testing.T) {
	m := sim.Model{
		Pool: 1, Slots: 2, Cores: 1,
		Claim: sim.Step{Takes: sim.Constant(1), CPUs: 0.25}, Make: sim.Step{Takes: sim.Constant(1), CPUs: 1},
	}
	got := sim.Run(m, []sim.Arrival{{}, {}}, source()).Latency
	if math.Abs(got[0]-1) > 1e-9 || math.Abs(got[1]-1.25) > 1e-9 {
		t.Errorf("got %v, want 1 and 1.25", got)
	}
}

// A clone is given back when its caller has had his answers, and not before he wants.
func TestQueryIsPartOfALife(t *testing.T) {
	m := sim.Model{Slots: 1, Live: 1, Make: sim.Step{Takes: sim.Constant(1)}, Query: sim.Step{Takes: sim.Constant(2)}}
	for keeps, want := range map[float64]float64{0.5: 4, 5: 7} {
		if got := sim.Run(m, []sim.Arrival{{Keeps: keeps}, {}}, source()).Latency; math.Abs(got[1]-want) > 1e-9 {
			t.Errorf("kept %g s: the next waits %g s, want %g", keeps, got[1], want)
		}
	}
}

// Nothing is made while too many wait for their removal.
func TestBacklogHoldsMaking(t *testing.T) {
	m := sim.Model{Slots: 1, Removers: 1, Backlog: 1, Make: sim.Step{Takes: sim.Constant(1)}, Remove: sim.Step{Takes: sim.Constant(10)}}
	got := sim.Run(m, make([]sim.Arrival, 4), source()).Latency
	if want := []float64{1, 2, 3, 22}; !slices.EqualFunc(got, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// No work is lost: with more callers than it can serve, a runner serves as many as all
// that a life takes leaves room for, and its processors are never idle.
func TestWorkIsConserved(t *testing.T) {
	m := sim.Model{
		Pool: 2, Refill: 1, Slots: 4, Removers: 4, Backlog: 32, Cores: 2, Rest: 0.05, Claim: sim.Step{Takes: sim.Constant(0.004), CPUs: 1},
		Make: sim.Step{Takes: sim.Exponential(0.05), CPUs: 1.4}, Query: sim.Step{Takes: sim.Constant(0.02), CPUs: 0.5}, Remove: sim.Step{Takes: sim.Constant(0.04), CPUs: 0.7},
	}
	const n, life = 20_000, 0.05*1.4 + 0.02*0.5 + 0.04*0.7 // almost nobody is served by the pool
	res := sim.Run(m, poisson(100, n, sim.Exponential(0.5)), source())
	near(t, "rate", n/res.Seconds, m.Cores/life, 0.03)
	near(t, "busy", res.Busy, 1, 0.01)
}

// Whatever the model, everybody is served, and each in one way.
func TestEverybodyIsServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := func(name string, least int) int { return rapid.IntRange(least, 6).Draw(t, name) }
		m := sim.Model{
			Pool: size("pool", 0), Refill: size("refill", 1), Slots: size("slots", 1), Removers: size("removers", 0),
			Live: size("live", 0), Backlog: size("backlog", 0), Cores: float64(size("cores", 0)), Rest: 0.05,
			Claim: sim.Step{Takes: sim.Constant(0.003), CPUs: 1}, Make: sim.Step{Takes: sim.Exponential(0.05), CPUs: 1.5},
			Remove: sim.Step{Takes: sim.Constant(0.01), CPUs: 1}, Use: 0.1, Query: sim.Step{Takes: sim.Constant(0.02), CPUs: 0.5},
		}
		n := rapid.IntRange(1, 200).Draw(t, "callers")
		callers := poisson(rapid.Float64Range(0.1, 100).Draw(t, "rate"), n, sim.Exponential(0.2))
		res := sim.Run(m, callers, source())
		if res.Hits+res.Given+res.Made != n || m.Live > 0 && res.Live > m.Live || res.Busy > 1 {
			t.Fatalf("%+v", res)
		}
		for i, s := range res.Latency {
			if s < 0 || math.IsNaN(s) || s == 0 {
				t.Fatalf("caller %d: %g s", i, s)
			}
		}
	})
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// The pool rests after a claim of a member, not after a caller who found none.
func TestRestsAfterHits(t *testing.T) {
	m := sim.Model{Pool: 2, Refill: 1, Slots: 1, Rest: 0.5, Make: sim.Step{Takes: sim.Constant(0.1)}}
	var callers []sim.Arrival
	for _, at := range []float64{0, 0, 0.05, 0.62, 0.62} { // two members, none, and two again from 0.6 on
		callers = append(callers, sim.Arrival{At: at, Keeps: 1})
	}
	if res := sim.Run(m, callers, source()); res.Hits != 4 || res.Given != 1 {
		t.Errorf("%d hits, %d given: %v", res.Hits, res.Given, res.Latency)
	}
}
