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
	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

const (
	// kept is how long callers keep their clones on average.
	kept = 500 * time.Millisecond
	// simulations is how often each load is simulated with other chances.
	simulations = 20
	// calibrated is how many clones are made to learn what each step takes.
	calibrated = 24
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
	p, err := t.calibrate(ctx, golden)
	if err != nil {
		return err
	}
	length := 20 * time.Second
	points := poolPoints
	if t.Quick {
		length, points = 2*time.Second, points[:2]
	}
	for i, point := range points {
		m := p.Model(point.members)
		m.Use = p.used
		rate := point.part * min(float64(runtime.NumCPU())/p.each, float64(p.Refill)/p.made)
		if err := t.arrive(ctx, golden, m, rate, length, uint64(i)); err != nil { //nolint:gosec // a seed
			return err
		}
	}
	return t.setPool(ctx, golden, 0)
}

// calibration is what the steps of a clone's life take on this machine.
type calibration struct {
	plan.Profile
	used float64 // processors that a clone keeps busy while a caller has it
	each float64 // seconds of processor time of one clone's life
	made float64 // seconds that making one takes
}

// calibrate measures each step by itself: how long, and how much of the processors.
func (t *take) calibrate(ctx context.Context, golden string) (c calibration, err error) {
	n := t.rounds(calibrated)
	c.Refill, c.Slots = plan.Defaults(runtime.NumCPU())
	steps := map[string]*recorder.Recorder{}
	record := func(name string) *recorder.Recorder {
		if steps[name] == nil {
			steps[name] = recorder.New(name, golden, "ms")
		}
		return steps[name]
	}
	var live []api.Clone
	each := func(name string, n int, do func(i int) (time.Duration, error)) (cpu float64, err error) {
		before := machine.CPUTime()
		for i := range n {
			took, err := do(i)
			if err != nil {
				return 0, fmt.Errorf("calibrate %s: %w", name, err)
			}
			record(name).AddDuration(took)
		}
		cpu = recorder.Milliseconds(machine.CPUTime()-before) / float64(n)
		record(name + "_cpu").Add(cpu)
		return cpu, nil
	}
	ask := func(int) (time.Duration, error) {
		begun := time.Now()
		resp, err := t.Rig.Client().Clone(ctx, api.CloneRequest{Golden: t.ref(golden)})
		if err != nil {
			return 0, err
		}
		live = append(live, resp.Clones[0])
		return time.Since(begun), nil
	}
	defer func() { err = errors.Join(err, t.setPool(context.WithoutCancel(ctx), golden, 0), t.empty(ctx, live)) }()
	if _, err = ask(0); err != nil { // to warm up
		return c, err
	}
	if c.MakeCPU, err = each("make", n, ask); err != nil {
		return c, err
	}
	query, err := each("query", n, func(i int) (time.Duration, error) {
		begun := time.Now()
		err := checkRows(ctx, endpoint(live[i]))
		return time.Since(begun), err
	})
	if err != nil {
		return c, err
	}
	c.RemoveCPU, err = each("remove", n, func(int) (time.Duration, error) {
		begun := time.Now()
		id := live[len(live)-1].ID
		live = live[:len(live)-1]
		err := errors.Join(t.Rig.Client().RemoveClone(ctx, id), t.gone(ctx, id))
		return time.Since(begun), err
	})
	if err != nil {
		return c, err
	}
	if err := t.pooled(ctx, golden, min(n, 8)); err != nil {
		return c, err
	}
	if c.HitCPU, err = each("hit", min(n, 8), ask); err != nil {
		return c, err
	}
	c.Hit, c.Make, c.Remove = steps["hit"].Series().Samples, steps["make"].Series().Samples, steps["remove"].Series().Samples
	c.Machine.CPUs = runtime.NumCPU()
	c.used = query / recorder.Milliseconds(kept)
	c.each = (c.HitCPU + c.MakeCPU + c.RemoveCPU + query) / 1e3
	c.made = steps["make"].Series().P50 / 1e3
	for _, name := range []string{"make", "query", "remove", "hit"} {
		t.keep(steps[name], steps[name+"_cpu"])
	}
	return c, nil
}

// arrive runs one load, and simulates the same callers.
func (t *take) arrive(ctx context.Context, golden string, m sim.Model, rate float64, length time.Duration, seed uint64) error {
	if err := t.pooled(ctx, golden, m.Pool); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // the same load in each run
	n := max(int(rate*length.Seconds()), 1)
	at := openloop.Poisson(rate, n, r)
	callers := sim.Arrivals(at, sim.Exponential(kept.Seconds()), r)
	place := func(name string) *recorder.Recorder {
		return recorder.New(name, golden, "ms").At("pool", float64(m.Pool)).At("rate", rate)
	}
	measured, predicted := place("measured"), place("predicted")
	err := openloop.Open(ctx, at, func(ctx context.Context, i int, intended time.Time) {
		if err := t.caller(ctx, golden, intended, callers[i].Keeps, measured); err != nil {
			_ = t.fail(ctx, measured, err) // the others come all the same
		}
	})
	if err := errors.Join(err, t.drained(ctx, t.waiting(ctx, golden))); err != nil {
		return err
	}
	for i := range uint64(simulations) {
		for _, s := range sim.Run(m, callers, rand.New(rand.NewPCG(seed, i))).Latency { //nolint:gosec // as above
			predicted.Add(1e3 * s)
		}
	}
	t.keep(measured, predicted)
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
