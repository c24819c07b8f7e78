// Package scenario holds the scenarios of the benchmarks. Whatever is measured is
// also checked for correctness: a clone that does not answer, or whose rows are
// wrong, is counted as an error and named.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
)

// maxErrors is how many errors of one scenario are named, and tooMany how many
// end it.
const (
	maxErrors = 10
	tooMany   = 20
)

// verification is the scenario that ends every run, however late it is.
const verification = "goldens"

// fallback is what the daemon logs of a container that it leaves to runc.
const fallback = `msg="container goes to runc"`

// Clone returns the scenarios that measure the life of clones, in the order in
// which they should run: what disturbs most comes last.
func Clone(e *Env) []bench.Scenario {
	return []bench.Scenario{
		measured{e, "cold", cold},
		measured{e, "size", size},
		measured{e, "template", template},
		measured{e, "query", query},
		measured{e, "claim", claim},
		measured{e, "throughput", throughput},
		measured{e, "density", density},
		measured{e, "claims", claims},
		measured{e, verification, goldens},
	}
}

// All returns what `ctrsnap bench all` runs, in the order in which it should run.
func All(e *Env) []bench.Scenario {
	return []bench.Scenario{
		measured{e, "cold", cold},
		measured{e, "size", size},
		measured{e, "template", template},
		measured{e, "destroy", destroy},
		measured{e, "firstwrite", firstwrite},
		measured{e, "network", network},
		measured{e, "query", query},
		measured{e, "claim", claim},
		measured{e, "pool", arrivals},
		measured{e, "peers", peers},
		measured{e, "throughput", throughput},
		measured{e, "density", density},
		measured{e, "scale", scale},
		measured{e, verification, goldens},
	}
}

// measured is a Scenario that is a function.
type measured struct {
	env     *Env
	name    string
	measure func(ctx context.Context, t *take) error
}

var _ bench.Scenario = measured{}

func (m measured) Name() string { return m.name }

// Run measures, and describes the machine before and after.
func (m measured) Run(ctx context.Context) (bench.Result, error) {
	t := &take{Env: m.env, res: bench.Result{
		Schema: bench.Schema, Scenario: m.name, Golden: m.env.Golden, Quick: m.env.Quick, Started: time.Now().UTC(),
		Series: []bench.Series{}, Ratios: []bench.Ratio{},
	}}
	t.rest(ctx)
	var err error
	if t.res.Machine, err = machine.Before(ctx, m.env.Rig.Storage(), m.env.reflink, m.env.versions); err != nil {
		return t.res, err
	}
	fallbacks := m.env.Rig.Logged(fallback)
	if m.name != verification && time.Now().After(m.env.Deadline) {
		t.skip("not run: the time was over")
	} else if m.env.Golden != "" && !slices.Contains(anyEngine, m.name) {
		t.skip("not run: it needs data that it knows, and not a golden of --golden")
	} else {
		err = m.run(ctx, t)
	}
	if err != nil {
		t.res.Errors = append(t.res.Errors, err.Error())
		err = fmt.Errorf("scenario %s: %w", m.name, err)
	}
	if n := m.env.Rig.Logged(fallback) - fallbacks; n > 0 {
		t.note("%d containers went to runc in place of the shim under test: the daemon's log says why", n)
	}
	machine.After(ctx, &t.res.Machine)
	t.res.Noisy = t.res.Machine.Noisy()
	t.res.Seconds = time.Since(t.res.Started).Seconds()
	return t.res, err
}

// rest waits until what the run has left is over; a smoke run is in a hurry.
func (e *Env) rest(ctx context.Context) {
	if !e.Quick {
		machine.Rest(ctx)
	}
}

// longest is how long one scenario may take: one that hangs must not keep the others
// from running.
const longest = 10 * time.Minute

// run measures. What it panics of is an error as others.
func (m measured) run(ctx context.Context, t *take) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("it took longer than %v", longest))
	defer cancel()
	if err = m.measure(ctx, t); err != nil && ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	return err
}

// take is one run of a scenario. It is safe for concurrent use.
type take struct {
	*Env
	mu    sync.Mutex
	res   bench.Result
	wrong int
}

// fail counts an incorrect attempt of a series and names it. Its error ends
// the scenario: ctx has, or there were too many.
func (t *take) fail(ctx context.Context, r *recorder.Recorder, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.Fail()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wrong++
	if len(t.res.Errors) < maxErrors {
		t.res.Errors = append(t.res.Errors, err.Error())
	}
	if t.wrong >= tooMany {
		return fmt.Errorf("%d errors", t.wrong)
	}
	return nil
}

func (t *take) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.res.Notes = append(t.res.Notes, fmt.Sprintf(format, args...))
}

func (t *take) skip(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.res.Skipped = append(t.res.Skipped, fmt.Sprintf(format, args...))
}

// keep adds series to the result, less those of which nothing was tried.
func (t *take) keep(recorders ...*recorder.Recorder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range recorders {
		if s := r.Series(); s.N > 0 || s.Errors > 0 {
			t.res.Series = append(t.res.Series, s)
		}
	}
}

// compare adds series and the ratio of them to the result.
func (t *take) compare(ratio string, over, under *recorder.Recorder) {
	t.keep(over, under)
	t.ratio(bench.Compare(ratio, over.Series(), under.Series()))
}

func (t *take) ratio(r bench.Ratio, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ok {
		t.res.Ratios = append(t.res.Ratios, r)
	}
}

// rounds is n, or few in a smoke run.
func (t *take) rounds(n int) int {
	if t.Quick {
		return min(n, 3)
	}
	return n
}
