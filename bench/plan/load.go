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

	"github.com/ctrsnap/ctrsnap/bench/load"
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

// busiest is the rate of the busiest hour of a trace, or of all of a shorter one.
func busiest(trace []sim.Arrival) float64 {
	const hour = 3600.0
	span := trace[len(trace)-1].At - trace[0].At
	if span <= 0 {
		return float64(len(trace))
	}
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
		return sim.Arrivals(load.Poisson(rate/float64(runners), n, r), sim.Exponential(life), r)
	}
	var part []sim.Arrival
	for i := 0; i < len(l.Trace); i += runners {
		part = append(part, l.Trace[i])
	}
	return part
}

// ReadTrace reads arrivals, one a line: when, and how many seconds the clone is
// kept, which may be left out for life. When is in seconds, or a time as in
// RFC 3339. Empty lines, and those that begin with #, are not looked at.
func ReadTrace(r io.Reader, life time.Duration) ([]sim.Arrival, error) {
	var trace []sim.Arrival
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(strings.ReplaceAll(lines.Text(), ",", " "))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		a, err := arrival(fields, life)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
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

func arrival(fields []string, life time.Duration) (a sim.Arrival, err error) {
	if len(fields) > 2 {
		return a, fmt.Errorf("%d fields, want when and how long", len(fields))
	}
	a.Keeps = life.Seconds()
	if at, terr := time.Parse(time.RFC3339Nano, fields[0]); terr == nil {
		a.At = float64(at.UnixNano()) / 1e9
	} else if a.At, err = strconv.ParseFloat(fields[0], 64); err != nil {
		return a, fmt.Errorf("when is neither seconds nor a time: %w", err)
	}
	if len(fields) == 2 {
		if a.Keeps, err = strconv.ParseFloat(fields[1], 64); err != nil {
			return a, fmt.Errorf("how long: %w", err)
		}
	}
	if !(math.Abs(a.At) < 1e12) || !(a.Keeps >= 0 && a.Keeps < 1e9) { // NaN is none of them either
		return a, errors.New("out of range")
	}
	if a.Keeps == 0 {
		return a, errors.New("no lifetime: want a second column, or a mean")
	}
	return a, nil
}
