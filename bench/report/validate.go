package report

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ctrsnap/ctrsnap/bench"
)

// Validate says what of results is not as their readers rely on: fields that are
// missing, figures that cannot be. It does not judge how fast anything is.
func Validate(results []bench.Result) error {
	if len(results) == 0 {
		return errors.New("no results")
	}
	var err error
	for _, r := range results {
		if e := validate(r); e != nil {
			err = errors.Join(err, fmt.Errorf("scenario %q: %w", r.Scenario, e))
		}
	}
	return err
}

func validate(r bench.Result) error {
	if r.Schema != bench.Schema {
		return fmt.Errorf("schema is %d, this program reads %d", r.Schema, bench.Schema)
	}
	var err error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			err = errors.Join(err, fmt.Errorf(format, args...))
		}
	}
	check(r.Scenario != "", "no name")
	check(!r.Started.IsZero(), "no start")
	check(r.Series != nil && r.Ratios != nil, "series or ratios are missing")
	m := r.Machine
	check(m.Kernel != "" && m.CPUs > 0 && m.MemoryBytes > 0 && m.Filesystem != "", "the machine is not described: %+v", m)
	check(r.Noisy == m.Noisy(), "noisy is %v, the machine says otherwise", r.Noisy)
	check(len(r.Series) > 0 || len(r.Skipped) > 0 || len(r.Errors) > 0, "neither series nor a reason why not")
	for _, s := range r.Series {
		check(s.Name != "" && s.Unit != "", "series without name or unit: %+v", s)
		ordered := slices.IsSorted([]float64{s.Min, s.P1, s.P50, s.P90, s.P99, s.Max})
		check(ordered && s.Min >= 0, "series %s: percentiles are not in order: %+v", s.Name, s)
		check(s.N > 0 || s.Errors > 0 || len(r.Skipped) > 0 || len(r.Errors) > 0, "series %s: no values and no reason why", s.Name)
		check(int64(len(s.Samples)) <= s.N, "series %s: more samples than values", s.Name)
		for stage, ms := range s.Stages {
			check(ms >= 0, "series %s: stage %s takes %g ms", s.Name, stage, ms)
		}
	}
	for _, x := range r.Ratios {
		check(slices.Contains(bench.Names, x.Name), "unknown ratio %q", x.Name)
		check(x.P50 > 0 && x.Over != "" && x.Under != "", "ratio %s: %+v", x.Name, x)
		l := bench.Limits[x.Name]
		check(x.Must == l.Must && x.Aim == l.Aim, "ratio %s: must %g, aim %g", x.Name, x.Must, x.Aim)
	}
	return err
}
