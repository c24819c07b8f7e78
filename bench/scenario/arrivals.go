package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	openloop "github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

const (
	// kept is how long callers keep their clones on average.
	kept = 500 * time.Millisecond
	// simulations is how often each load is simulated with other chances.
	simulations = 20
)

// poolPoints are the loads of the pool: members, and arrivals as a part of what
// the machine can make. The last ones have callers queue.
var poolPoints = []struct {
	members int
	part    float64
}{{4, 0.5}, {2, 0.7}, {2, 0.9}}

// arrivals has callers come at random who do not wait for each other, and compares how
// long they waited for a clone with what the simulation predicts.
func arrivals(ctx context.Context, t *take) error {
	const golden = "app"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	p, err := calibrate(ctx, t, golden)
	if err != nil {
		return err
	}
	length, points := t.Span, poolPoints
	if t.Quick {
		length, points = 2*time.Second, points[:2]
	}
	for i, point := range points {
		m := p.Model(point.members)
		m.Query = p.query
		rate := point.part * min(float64(runtime.NumCPU())/p.each, float64(p.Refill)/p.made)
		if err := t.arrive(ctx, golden, m, rate, length, uint64(i)); err != nil {
			return err
		}
	}
	return t.setPool(ctx, golden, 0)
}

// arrive runs one load, and simulates the same callers. The processor time of a life in it
// says whether the machine was as it was calibrated.
func (t *take) arrive(ctx context.Context, golden string, m sim.Model, rate float64, length time.Duration, seed uint64) error {
	if err := t.pooled(ctx, golden, m.Pool); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 3))
	n := max(int(rate*length.Seconds()), 1)
	at := openloop.Poisson(rate, n, r)
	callers := sim.Arrivals(at, sim.Exponential(kept.Seconds()), r)
	place := func(name string) *recorder.Recorder {
		return recorder.New(name, golden, "ms").At("pool", float64(m.Pool)).At("rate", rate)
	}
	measured := place("measured")
	worked := machine.CPUTime()
	err := openloop.Open(ctx, at, func(ctx context.Context, i int, intended time.Time) {
		if err := t.caller(ctx, golden, intended, callers[i].Keeps, measured); err != nil {
			_ = t.fail(ctx, measured, err) // the others come all the same
		}
	})
	if err := errors.Join(err, t.drained(ctx, t.waiting(ctx, golden))); err != nil {
		return err
	}
	life, predicted := place("life_cpu"), place("predicted")
	life.Add(recorder.Milliseconds(machine.CPUTime()-worked) / float64(n))
	for i := range uint64(simulations) {
		for _, s := range sim.Run(m, callers, rand.New(rand.NewPCG(seed, i))).Latency {
			predicted.Add(1e3 * s)
		}
	}
	t.keep(measured, predicted, life)
	ratio, ok := bench.Compare("plan_claim_p99", predicted.Series(), measured.Series())
	ratio.Over, ratio.Under = fmt.Sprintf("predicted pool=%d rate=%.1f", m.Pool, rate), "measured"
	t.ratio(ratio, ok)
	return nil
}

// caller takes a clone, checks it, keeps it and gives it back.
func (t *take) caller(ctx context.Context, golden string, intended time.Time, keeps float64, r *recorder.Recorder) error {
	resp, err := t.Rig.Client().Clone(ctx, api.CloneRequest{Golden: t.ref(golden)})
	if err != nil {
		return err
	}
	r.AddDuration(time.Since(intended))
	c := resp.Clones[0]
	timer := time.NewTimer(time.Duration(keeps * float64(time.Second)))
	defer timer.Stop()
	err = checkRows(ctx, endpoint(c))
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return errors.Join(err, t.Rig.Client().RemoveClone(context.WithoutCancel(ctx), c.ID))
}
