// Package sim is a discrete-event simulation of one runner with a pool: callers
// come, take a member that waits or have a clone made, keep it for a while and
// give it back, and all of this shares the processors.
//
// The rules are those of runtime/pool and runtime/manager: a caller who finds the
// pool empty takes the next member that nobody has waited longer for, or a slot to
// have his own made, whatever comes first; members are made when nobody waits,
// and not at once after a claim while half of them are there; nothing is made while too
// many wait for their removal. Processors that are not enough are shared fairly, as
// Linux does: what needs less than its part has that, and the others share the rest.
package sim

import (
	"math/rand/v2"
	"time"
)

// Dist draws a number of seconds.
type Dist func(*rand.Rand) float64

// Constant always takes the same number of seconds.
func Constant(seconds float64) Dist { return func(*rand.Rand) float64 { return seconds } }

// Exponential takes so many seconds on average.
func Exponential(mean float64) Dist {
	return func(r *rand.Rand) float64 { return mean * r.ExpFloat64() }
}

// Sampled draws from what was measured, in seconds; there must be a value.
func Sampled(values []float64) Dist {
	return func(r *rand.Rand) float64 { return values[r.IntN(len(values))] }
}

// Step is a piece of work: how long it takes alone on the machine, and how many
// processors it then uses.
type Step struct {
	Takes Dist
	CPUs  float64
}

// Model is a runner.
type Model struct {
	Pool     int // members that are kept ahead
	Refill   int // made ahead at a time
	Slots    int // made at a time in all
	Removers int // removed at a time; 0: all at once
	// Backlog is how many clones may wait for their removal, or be removed, before
	// no more are made. 0: any number.
	Backlog int
	// Rest is how long after a claim no member is begun while half of them wait, in
	// seconds.
	Rest float64
	// Live is how many clones callers may have at a time; who comes then
	// waits for one to be given back. 0: any number.
	Live  int
	Cores float64 // processors; 0: no work slows other work

	Claim  Step // to hand out a member
	Make   Step // to make a clone, for the pool or a caller
	Remove Step
	Query  Step    // what a caller asks of his clone before he can give it back
	Use    float64 // processors that a clone in use keeps busy besides
}

// Arrival is a caller: when he comes, and how long he keeps his clone, in seconds.
type Arrival struct{ At, Keeps float64 }

// Arrivals joins times with lifetimes that are drawn.
func Arrivals(at []time.Duration, keeps Dist, r *rand.Rand) []Arrival {
	all := make([]Arrival, len(at))
	for i, t := range at {
		all[i] = Arrival{t.Seconds(), keeps(r)}
	}
	return all
}

// Result is what became of the callers.
type Result struct {
	Latency []float64 // seconds from each arrival until the caller had a clone
	Hits    int       // callers whose member was there
	Given   int       // callers who were given one that was just made
	Made    int       // callers who had one made
	Live    int       // clones in use at most
	Queue   int       // callers who waited at most
	Busy    float64   // mean part of the processors in use; 0 if Model.Cores is
	Seconds float64   // until the last caller had his clone
}

// Run simulates the callers, who must be sorted by At, on a runner whose pool
// is full in the beginning. The same r gives the same result.
func Run(m Model, callers []Arrival, r *rand.Rand) Result {
	w := &world{Model: m, callers: callers, rand: r, ready: m.Pool, lastClaim: -m.Rest}
	w.res.Latency = make([]float64, len(callers))
	for w.served < len(callers) {
		w.advance()
	}
	w.res.Seconds = w.now
	if w.Cores > 0 && w.now > 0 {
		w.res.Busy = w.used / (w.Cores * w.now)
	}
	return w.res
}
