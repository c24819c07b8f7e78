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
		if err := t.arrive(ctx, golden, m, p.each, rate, length, uint64(i)); err != nil {
			return err
		}
	}
	return t.setPool(ctx, golden, 0)
}

// arrive runs one load, and simulates the same callers: as the machine was calibrated, with
// lives of so much processor time (cost, in seconds), and with what a life took in this very run. What the
// second predicts better, the machine did slower or faster than a minute before.
func (t *take) arrive(ctx context.Context, golden string, m sim.Model, cost, rate float64, length time.Duration, seed uint64) error {
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
	life := (machine.CPUTime() - worked).Seconds() / float64(n)
	each := place("life_cpu")
	each.Add(1e3 * life)
	t.keep(measured, each)
	where := fmt.Sprintf("pool=%d rate=%.1f", m.Pool, rate)
	t.predict(place("predicted"), "predicted "+where, m, callers, seed, measured)
	t.predict(place("predicted_at_cost"), "predicted at its own cost "+where, m.Dearer(life/cost), callers, seed, measured)
	return nil
}

// predict simulates the callers, and compares them with those that were measured.
func (t *take) predict(r *recorder.Recorder, what string, m sim.Model, callers []sim.Arrival, seed uint64, measured *recorder.Recorder) {
	for i := range uint64(simulations) {
		for _, s := range sim.Run(m, callers, rand.New(rand.NewPCG(seed, i))).Latency {
			r.Add(1e3 * s)
		}
	}
	t.keep(r)
	ratio, ok := bench.Compare("plan_claim_p99", r.Series(), measured.Series())
	ratio.Over, ratio.Under = what, "measured"
	t.ratio(ratio, ok)
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
