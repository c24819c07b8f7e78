package plan

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/sim"
)

// Load is what runners are to carry.
type Load struct {
	PerDay   float64       `json:"tests_per_day"`
	Peak     float64       `json:"peak"`     // the busiest hour over the mean
	Lifetime time.Duration `json:"lifetime"` // mean, of a clone
	// Parallel is how many tests run at a time, on all runners; 0: any number.
	Parallel  int     `json:"parallel"`
	Written   int64   `json:"written_bytes"`    // by the test, into its clone
	JobMemory int64   `json:"job_memory_bytes"` // that the test itself uses on the runner
	JobCPUs   float64 `json:"job_cpus"`         // that it, and its queries, keep busy
	// Trace are arrivals in place of PerDay, Peak and Lifetime.
	Trace []sim.Arrival `json:"-"`
}

// ErrLoad says that a load is not described, or cannot be one.
var ErrLoad = errors.New("load cannot be planned")

// maxTrace bounds what is read of a trace.
const maxTrace = 1_000_000

// check refuses what cannot be computed with.
func (l Load) check() error {
	for _, v := range []float64{l.PerDay, l.Peak, l.JobCPUs, float64(l.Lifetime), float64(l.Parallel), float64(l.Written), float64(l.JobMemory)} {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%w: a number is negative, or none", ErrLoad)
		}
	}
	switch {
	case len(l.Trace) > 0:
		return nil
	case l.PerDay <= 0:
		return fmt.Errorf("%w: no tests per day, or a trace of arrivals", ErrLoad)
	case l.PerDay < 1:
		return fmt.Errorf("%w: less than one test a day", ErrLoad)
	case l.Lifetime <= 0:
		return fmt.Errorf("%w: no lifetime: want how long a test keeps its clone on average", ErrLoad)
	}
	return nil
}

const day = 24 * 60 * 60.0

// rate is how many tests begin per second in the busiest hour, and life how
// many seconds each keeps its clone on average.
func (l Load) rate() (rate, life float64) {
	if len(l.Trace) == 0 {
		return l.PerDay / day * max(l.Peak, 1), l.Lifetime.Seconds()
	}
	for _, a := range l.Trace {
		life += a.Keeps
	}
	return busiest(l.Trace), life / float64(len(l.Trace))
}

// live is how many clones there are at a time on average: of a trace no more than come.
func (l Load) live(rate, life float64) float64 {
	if len(l.Trace) > 0 {
		return min(rate*life, float64(len(l.Trace)))
	}
	return rate * life
}

// busiest is the rate of the busiest hour of a trace, or of all of a shorter one.
func busiest(trace []sim.Arrival) float64 {
	const hour = 3600.0
	span := max(trace[len(trace)-1].At-trace[0].At, 1)
	if span <= hour {
		return float64(len(trace)) / span
	}
	most, first := 0, 0
	for last, a := range trace {
		for a.At-trace[first].At > hour {
			first++
		}
		most = max(most, last-first+1)
	}
	return float64(most) / hour
}

// arrivals are n callers of one of so many runners in the busiest hour, at
// random, or each that many'th of the trace.
func (l Load) arrivals(rate, life float64, runners, n int, r *rand.Rand) []sim.Arrival {
	if len(l.Trace) == 0 {
		return atRandom(rate/float64(runners), life, n, r)
	}
	var part []sim.Arrival
	for i := 0; i < len(l.Trace); i += runners {
		part = append(part, l.Trace[i])
	}
	return part
}

// atRandom are callers who know nothing of each other. Few of them may take centuries, which is
// more than a [time.Duration] holds.
func atRandom(rate, life float64, n int, r *rand.Rand) []sim.Arrival {
	callers, now := make([]sim.Arrival, n), 0.0
	for i := range callers {
		now += r.ExpFloat64() / rate
		callers[i].At = now
	}
	for i := range callers {
		callers[i].Keeps = life * r.ExpFloat64()
	}
	return callers
}

// ReadTrace reads arrivals, one a line: when, and how many seconds the clone is
// kept, which may be left out for life. When is in seconds, or a time as in
// RFC 3339, the same in all lines; they need not be in order. Empty lines, and those that begin with #, are not looked at.
func ReadTrace(r io.Reader, life time.Duration) ([]sim.Arrival, error) {
	var trace []sim.Arrival
	clock := false // whether lines have times
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(strings.ReplaceAll(lines.Text(), ",", " "))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		a, isTime, err := arrival(fields, life)
		if err == nil && len(trace) > 0 && isTime != clock {
			err = errors.New("seconds in one line, and a time in another")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		clock = isTime
		if trace = append(trace, a); len(trace) > maxTrace {
			return nil, fmt.Errorf("more than %d arrivals", maxTrace)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(trace) == 0 {
		return nil, errors.New("no arrivals")
	}
	slices.SortStableFunc(trace, func(a, b sim.Arrival) int {
		switch {
		case a.At < b.At:
			return -1
		case a.At > b.At:
			return 1
		}
		return 0
	})
	first := trace[0].At
	for i := range trace {
		trace[i].At -= first
	}
	return trace, nil
}

// arrival is that of one line, and whether the line has a time.
func arrival(fields []string, life time.Duration) (a sim.Arrival, isTime bool, err error) {
	if len(fields) > 2 {
		return a, false, fmt.Errorf("%d fields, want when and how long", len(fields))
	}
	a.Keeps = life.Seconds()
	if at, err := time.Parse(time.RFC3339Nano, fields[0]); err == nil {
		a.At, isTime = float64(at.Unix())+float64(at.Nanosecond())/1e9, true
	} else if a.At, err = strconv.ParseFloat(fields[0], 64); err != nil || !(math.Abs(a.At) < 1e12) { // NaN is not
		return a, false, fmt.Errorf("when: want seconds, or a time as in RFC 3339, got %q", fields[0])
	}
	if len(fields) == 2 {
		if a.Keeps, err = strconv.ParseFloat(fields[1], 64); err != nil || !(a.Keeps > 0 && a.Keeps < 1e9) {
			return a, false, fmt.Errorf("how long: want seconds, more than 0, got %q", fields[1])
		}
	}
	if a.Keeps <= 0 {
		return a, false, errors.New("no lifetime: want a second column, or a mean lifetime")
	}
	return a, isTime, nil
}
