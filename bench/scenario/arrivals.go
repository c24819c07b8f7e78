package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	openloop "github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/bench/stat"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	// kept is how long callers keep their clones on average.
	kept = 500 * time.Millisecond
	// simulations is how often each load is simulated with other chances.
	simulations = 20
	// turns is how often each load has its turn.
	turns = 3
	// disturbed is how many times what a life costs while all processors work one may
	// take of them in a turn: more than that was for somebody else.
	disturbed = 1.25
)

// poolLoads are the loads of the pool: members, and arrivals as a part of what the
// machine can make. Of the first a plan would say that claims are instant; of the second a fifth
// of the callers find the pool empty. Nearer to what the machine can make, a p99 is no
// property of the load: at 0.7 a tenth more cost makes it half as long again, and what a shared
// machine can do changes by that much.
var poolLoads = []struct {
	members int
	part    float64
}{{8, 0.4}, {2, 0.5}}

// arrivals has callers come at random who do not wait for each other, and compares how
// long they waited for a clone with what the simulation predicts. Each load has several turns,
// and before and after each round of them it is measured what the machine can do: how
// much that is changes while others share its hardware.
func arrivals(ctx context.Context, t *take) (err error) {
	golden := t.subject("app")
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	t.rest(ctx) // the golden may have been built just now
	if !t.Rig.Own() {
		t.note("the prediction is of a daemon without pool.parallel in its configuration")
	}
	k := newCalibrator(t, golden)
	defer func() { err = errors.Join(err, k.clear(context.WithoutCancel(ctx))) }()
	length, full, rounds := t.Span, t.Span/2, turns
	if t.Quick {
		length, full, rounds = time.Second, time.Second, 1
	}
	cost, err := k.round(ctx, full)
	if err != nil {
		return err
	}
	costs := []float64{cost}
	var trials []*trial
	for i, l := range poolLoads {
		trials = append(trials, newTrial(golden, l.members, l.part, uint64(i)))
	}
	for range rounds {
		for _, tr := range trials {
			if err := tr.arrive(ctx, t, tr.load*k.capacity(cost), length); err != nil {
				return err
			}
		}
		if cost, err = k.round(ctx, full); err != nil {
			return err
		}
		costs = append(costs, cost)
	}
	for _, tr := range trials {
		tr.count(t, costs, func(cost float64) sim.Model { return k.model(tr.members, k.contention(cost)) })
		tr.judge(t)
	}
	k.keepAll(costs)
	return nil
}

// turn is what was measured of a load at a stretch.
type turn struct {
	rate    float64 // callers a second
	callers []sim.Arrival
	took    []time.Duration // by caller; 0: no clone, or a wrong one
	life    float64         // milliseconds of processor time of each clone
}

// trial is one load: what was measured of it in all its turns, and predicted.
type trial struct {
	golden    string
	members   int
	load      float64 // as a part of what the machine can do
	rand      *rand.Rand
	turns     []turn
	measured  *recorder.Recorder
	predicted *recorder.Recorder
	life      *recorder.Recorder // processor time of each turn's clones
	runs      [simulations][]float64
}

// newTrial is the load that is so much of what a machine can do.
func newTrial(golden string, members int, load float64, seed uint64) *trial {
	place := func(name string) *recorder.Recorder {
		return recorder.New(name, golden, "ms").At("pool", float64(members)).At("load", load)
	}
	return &trial{
		golden: golden, members: members, load: load, rand: rand.New(rand.NewPCG(seed, 3)),
		measured: place("measured"), predicted: place("predicted"), life: place("life_cpu"),
	}
}

// arrive runs one turn, of so many callers a second.
func (tr *trial) arrive(ctx context.Context, t *take, rate float64, length time.Duration) error {
	if err := t.pooled(ctx, tr.golden, tr.members); err != nil {
		return err
	}
	at := openloop.Poisson(rate, max(int(rate*length.Seconds()), 1), tr.rand)
	callers := sim.Arrivals(at, sim.Exponential(kept.Seconds()), tr.rand)
	tn := turn{rate: rate, callers: callers, took: make([]time.Duration, len(at))}
	worked := machine.CPUTime()
	err := openloop.Open(ctx, at, func(ctx context.Context, i int, intended time.Time) {
		took, err := t.caller(ctx, tr.golden, intended, callers[i].Keeps)
		if err != nil {
			_ = t.fail(ctx, tr.measured, err) // the others come all the same
			return
		}
		tn.took[i] = took
	})
	if err := errors.Join(err, t.drained(ctx, tr.members)); err != nil {
		return err
	}
	tn.life = recorder.Milliseconds(machine.CPUTime()-worked) / float64(len(at))
	tr.turns = append(tr.turns, tn)
	return nil
}

// count counts the turns and simulates them, by what a life cost before and after each. It
// leaves those out in which others worked; a smoke run is never alone.
func (tr *trial) count(t *take, costs []float64, model func(cost float64) sim.Model) {
	for i, tn := range tr.turns {
		tr.life.Add(tn.life)
		if full := max(costs[i], costs[i+1]); tn.life > disturbed*full && !t.Quick {
			t.note("pool %d, turn %d is left out: others worked on the machine, its clones took %.0f ms of processor time each, and of a machine that is full before and after it at most %.0f",
				tr.members, i+1, tn.life, full)
			continue
		}
		for _, took := range tn.took {
			if took > 0 {
				tr.measured.AddDuration(took)
			}
		}
		tr.predict(model((costs[i]+costs[i+1])/2), tn.callers)
	}
}

// predict simulates the callers of one turn.
func (tr *trial) predict(m sim.Model, callers []sim.Arrival) {
	for i := range tr.runs {
		for _, s := range sim.Run(m, callers, rand.New(rand.NewPCG(tr.rand.Uint64(), uint64(i)))).Latency {
			tr.predicted.Add(1e3 * s)
			tr.runs[i] = append(tr.runs[i], 1e3*s)
		}
	}
}

// judge compares what was measured with what was predicted. How far chance alone takes
// p99 is to be seen from each simulation by itself.
func (tr *trial) judge(t *take) {
	rate := 0.0
	for _, tn := range tr.turns {
		rate += tn.rate / float64(len(tr.turns))
	}
	t.keep(tr.measured.With("rate", rate), tr.predicted.With("rate", rate), tr.life.With("rate", rate))
	var p99s []float64
	for _, run := range tr.runs {
		p99s = append(p99s, stat.Quantile(run, 0.99))
	}
	measured, predicted := tr.measured.Series(), tr.predicted.Series()
	if measured.N == 0 {
		t.skip("plan_claim_p99 of pool %d: no turn without others", tr.members)
		return
	}
	t.note("pool %d, load %g: p99 of %d claims is %.0f ms, predicted %.0f; in nine of ten simulations of as many it is %.0f to %.0f",
		tr.members, tr.load, measured.N, measured.P99, predicted.P99, stat.Quantile(p99s, 0.05), stat.Quantile(p99s, 0.95))
	ratio, ok := bench.Compare("plan_claim_p99", predicted, measured)
	ratio.Over, ratio.Under = fmt.Sprintf("predicted pool=%d load=%g", tr.members, tr.load), "measured"
	t.ratio(ratio, ok)
}

// caller takes a clone, checks it, keeps it and gives it back. It returns how long the
// clone took.
func (t *take) caller(ctx context.Context, golden string, intended time.Time, keeps float64) (time.Duration, error) {
	resp, err := client.Do(ctx, t.Rig.Client(), api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: t.ref(golden)}})
	if err != nil {
		return 0, err
	}
	took := time.Since(intended)
	c := resp.Clones[0]
	timer := time.NewTimer(time.Duration(keeps * float64(time.Second)))
	defer timer.Stop()
	err = checkRows(ctx, t.endpoint(c))
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return took, errors.Join(err, client.Tell(context.WithoutCancel(ctx), t.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID}))
}
