package scenario

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/rig"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	callers = 4
	// window is how long rates are averaged for the distribution.
	window = 5 * time.Second
	// poolSize is that of the pool in scenarios that use one.
	poolSize = 16
)

// throughput compares how many clones per second four callers make, ask and
// destroy, with the daemon under test and with the baseline.
func throughput(ctx context.Context, t *take) (err error) {
	golden := t.subject("shop")
	over, under := newRates("ctrsnap", golden), newRates("runc", golden)
	if t.Baseline == nil {
		t.skip("throughput_vs_runc: no configuration of the baseline was given (--baseline): nothing to compare with")
	}
	if _, err := t.golden(ctx, golden); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, t.restart(context.WithoutCancel(ctx), t.Daemon), t.setPoolIfAny(ctx, golden, 0))
	}()
	arms := []bench.Arm{func(ctx context.Context, _ int) error { return t.block(ctx, golden, t.Daemon, poolSize, over) }}
	if t.Baseline != nil {
		arms = append(arms, func(ctx context.Context, _ int) error { return t.block(ctx, golden, t.Baseline, 0, under) })
	}
	rounds := 2 // of half a minute each
	if t.Quick {
		rounds = 1
	}
	err = bench.Interleave(ctx, rounds, arms...)
	t.note("a rate is that of clones of which nothing is left: the time until the last is gone counts")
	t.note("per_core_second: of all the processors' time, the callers' own and whatever others used included")
	t.keep(over.sustained, over.windows, over.latency, over.perCore)
	if t.Baseline != nil {
		t.keep(under.sustained, under.windows, under.latency, under.perCore)
		r, ok := bench.Compare("throughput_vs_runc", over.sustained.Series(), under.sustained.Series())
		w, _ := bench.Compare("throughput_vs_runc", over.windows.Series(), under.windows.Series())
		r.P99 = w.P99
		t.ratio(r, ok)
	}
	return err
}

func (e *Env) setPoolIfAny(ctx context.Context, golden string, n int) error {
	if err := e.setPool(ctx, golden, n); !errors.Is(err, errNoPool) {
		return err
	}
	return nil
}

// rates are what one arm records.
type rates struct{ sustained, windows, latency, perCore *recorder.Recorder }

func newRates(name, golden string) rates {
	return rates{
		recorder.New(name+"_sustained", golden, "1/s"), recorder.New(name+"_window", golden, "1/s"),
		recorder.New(name+"_create", golden, "ms"), recorder.New(name+"_per_core_second", golden, "1/core-s"),
	}
}

// block runs the callers for some time, after some seconds to warm up.
func (t *take) block(ctx context.Context, golden string, c rig.Config, pool int, r rates) error {
	length, warming := 30*time.Second, 3*time.Second
	if t.Quick {
		length, warming = 2*time.Second, time.Second
	}
	if err := t.restart(ctx, c); err != nil {
		return err
	}
	if err := t.setPoolIfAny(ctx, golden, pool); err != nil {
		return err
	}
	if _, err := t.callFor(ctx, golden, warming, newRates("", "")); err != nil {
		return err
	}
	begun, worked := time.Now(), machine.CPUTime()
	ends, err := t.callFor(ctx, golden, length, r)
	if err != nil {
		return err
	}
	r.perCore.Add(float64(len(ends)) / max(machine.CPUTime()-worked, time.Millisecond).Seconds())
	r.sustained.Add(float64(len(ends)) / time.Since(begun).Seconds())
	for _, n := range perWindow(ends, begun, length) {
		r.windows.Add(float64(n) / window.Seconds())
	}
	return nil
}

// perWindow counts the ends in each whole window.
func perWindow(ends []time.Time, begun time.Time, length time.Duration) []int {
	counts := make([]int, length/window)
	for _, at := range ends {
		if i := int(at.Sub(begun) / window); i < len(counts) {
			counts[i]++
		}
	}
	return counts
}

// callFor has the callers clone, ask and destroy for some time, and waits until
// nothing is left. It returns when each clone had been destroyed.
func (t *take) callFor(ctx context.Context, golden string, length time.Duration, r rates) ([]time.Time, error) {
	return t.call(ctx, callers, golden, length, r)
}

func (t *take) call(ctx context.Context, callers int, golden string, length time.Duration, r rates) ([]time.Time, error) {
	deadline := time.Now().Add(length)
	var mu sync.Mutex
	var ends []time.Time
	g, gctx := errgroup.WithContext(ctx)
	for range callers {
		g.Go(func() error {
			for time.Now().Before(deadline) && gctx.Err() == nil {
				c, took, _, err := t.clone(gctx, golden)
				if err == nil {
					err = client.Tell(gctx, t.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID})
				}
				if err != nil {
					if err := t.fail(gctx, r.latency, err); err != nil {
						return err
					}
					continue
				}
				r.latency.AddDuration(took)
				mu.Lock()
				ends = append(ends, time.Now())
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return ends, err
	}
	return ends, t.drained(ctx, t.waiting(ctx))
}

// waiting is how many clones wait in pools or may be on their way there.
func (e *Env) waiting(ctx context.Context) int {
	pools, err := client.Do(ctx, e.Rig.Client(), api.ListPools, api.None{})
	if err != nil {
		return 0
	}
	n := 0
	for _, p := range pools {
		n += p.Wanted
	}
	return n
}
