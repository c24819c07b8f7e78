package scenario

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/plan"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/bench/sim"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const (
	// calibrated is how many clones are made each time to learn what each step takes.
	calibrated = 8
	// batches is how many times as many hits are measured: where a plan says that
	// claims are instant they are hits, and p99 is the bad end of those.
	batches = 4
	// apart is how long after a claim the next one is: the machine is at rest then, and
	// the pool, of which half is there, waits still until no more claims come.
	apart = 30 * time.Millisecond
)

// calibrator measures each step by itself: how long, and how much of the processors.
type calibrator struct {
	*take
	golden string
	live   []api.Clone
	took   map[string]*recorder.Recorder
	cpu    map[string]*recorder.Recorder // of each step on average
	hitCPU time.Duration                 // of all hits
}

func newCalibrator(t *take, golden string) *calibrator {
	k := &calibrator{take: t, golden: golden, took: map[string]*recorder.Recorder{}, cpu: map[string]*recorder.Recorder{}}
	for _, step := range lifeSteps {
		k.took[step], k.cpu[step] = recorder.New(step, golden, "ms"), recorder.New(step+"_cpu", golden, "ms")
	}
	return k
}

// lifeSteps are those of a clone.
var lifeSteps = []string{"make", "query", "remove", "hit"}

// round measures each step alone on the machine some times more, and then what a whole life
// costs while more is asked than the machine can do, in milliseconds of its processors.
func (k *calibrator) round(ctx context.Context, length time.Duration) (cost float64, err error) {
	if err := k.clear(ctx); err != nil {
		return 0, err
	}
	if err := k.alone(ctx); err != nil {
		return 0, err
	}
	if err := k.clear(ctx); err != nil {
		return 0, err
	}
	begun := time.Now()
	n, err := k.saturate(ctx, length)
	if err == nil && n == 0 {
		err = errors.New("calibrate: no clone was made while all processors worked")
	}
	return recorder.Milliseconds(time.Since(begun)) * float64(runtime.NumCPU()) / float64(n), err
}

// alone measures each step alone.
func (k *calibrator) alone(ctx context.Context) error {
	if _, err := k.ask(ctx); err != nil { // to warm up
		return err
	}
	n := k.rounds(calibrated)
	if err := k.step("make", n, func(int) (time.Duration, error) { return k.ask(ctx) }); err != nil {
		return err
	}
	if err := k.step("query", n, func(i int) (time.Duration, error) { return k.query(ctx, k.live[i]) }); err != nil {
		return err
	}
	if err := k.step("remove", n, func(int) (time.Duration, error) { return k.removeLast(ctx) }); err != nil {
		return err
	}
	for range batches {
		if err := k.pooled(ctx, k.golden, 2*n); err != nil {
			return err
		}
		if err := k.hits(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// hits measures claims of members that wait, as those of callers from when each was to come.
// They are over before the kernel's clock, which counts the processors' time, has ticked:
// only all of them together say how much it is.
func (k *calibrator) hits(ctx context.Context, n int) error {
	for range n {
		intended := time.Now().Add(apart)
		k.pause(ctx, apart)
		before := machine.CPUTime()
		if _, err := k.ask(ctx); err != nil {
			return fmt.Errorf("calibrate hit: %w", err)
		}
		k.hitCPU += machine.CPUTime() - before
		k.took["hit"].AddDuration(time.Since(intended))
	}
	k.cpu["hit"].Reset()
	k.cpu["hit"].Add(recorder.Milliseconds(k.hitCPU) / float64(k.took["hit"].Series().N))
	return nil
}

// pause waits.
func (k *calibrator) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// step runs one n times.
func (k *calibrator) step(name string, n int, do func(i int) (time.Duration, error)) error {
	before := machine.CPUTime()
	for i := range n {
		took, err := do(i)
		if err != nil {
			return fmt.Errorf("calibrate %s: %w", name, err)
		}
		k.took[name].AddDuration(took)
	}
	k.cpu[name].Add(recorder.Milliseconds(machine.CPUTime()-before) / float64(n))
	return nil
}

// ask asks for a clone, and nothing of it.
func (k *calibrator) ask(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	resp, err := client.Do(ctx, k.Rig.Client(), api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: k.ref(k.golden)}})
	if err != nil {
		return 0, err
	}
	k.live = append(k.live, resp.Clones[0])
	return time.Since(begun), nil
}

func (k *calibrator) query(ctx context.Context, c api.Clone) (time.Duration, error) {
	begun := time.Now()
	err := checkRows(ctx, k.endpoint(c))
	return time.Since(begun), err
}

func (k *calibrator) removeLast(ctx context.Context) (time.Duration, error) {
	id := k.live[len(k.live)-1].ID
	k.live = k.live[:len(k.live)-1]
	begun := time.Now()
	err := errors.Join(client.Tell(ctx, k.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: id}), k.gone(ctx, id))
	return time.Since(begun), err
}

// contention says how many times that the processors' time of the steps alone a life costs.
// Processors that share caches do less than twice as much, and steps wait for locks of
// the kernel: both make a life dearer than its steps, the latter without any
// processor being used. So does a hypervisor that has processors run slower.
func (k *calibrator) contention(cost float64) float64 {
	alone := 0.0
	for _, step := range []string{"make", "query", "remove"} { // there is no pool
		alone += k.cpu[step].Series().P50
	}
	return cost / max(alone, 1)
}

// saturate has more callers at work than the machine can serve, for some time, and
// returns how many clones they had.
func (k *calibrator) saturate(ctx context.Context, length time.Duration) (int, error) {
	end, r := time.Now().Add(length), recorder.New("", k.golden, "ms")
	g, gctx := errgroup.WithContext(ctx)
	for range 16 * runtime.NumCPU() {
		g.Go(func() error {
			for time.Now().Before(end) {
				keeps := min(kept, time.Until(end)).Seconds()
				took, err := k.caller(gctx, k.golden, time.Now(), keeps)
				if err != nil {
					return err
				}
				r.AddDuration(took)
			}
			return nil
		})
	}
	err := errors.Join(g.Wait(), k.drained(ctx, 0))
	return int(r.Series().N), err
}

// clear removes what was made, and the pool.
func (k *calibrator) clear(ctx context.Context) error {
	return errors.Join(k.setPool(ctx, k.golden, 0), k.removeAll(ctx), k.drained(ctx, 0))
}

// removeAll removes the clones that callers have.
func (k *calibrator) removeAll(ctx context.Context) error {
	live := k.live
	k.live = nil
	var err error
	for _, c := range live {
		err = errors.Join(err, k.remove(ctx, c.ID))
	}
	return err
}

// model is this machine with a pool of so many members, as long as steps that are under
// way together take so many times what they take alone.
func (k *calibrator) model(pool int, contention float64) sim.Model {
	ms, cpu := func(step string) []float64 { return k.took[step].Series().Samples }, func(step string) float64 { return k.cpu[step].Series().P50 }
	p := plan.Profile{
		Hit: ms("hit"), Make: ms("make"), Remove: ms("remove"),
		HitCPU: cpu("hit"), MakeCPU: cpu("make"), RemoveCPU: cpu("remove"), Contention: contention,
	}
	p.Machine.CPUs = runtime.NumCPU()
	p.Refill, p.Slots = plan.Defaults(p.Machine.CPUs)
	m := p.Model(pool)
	m.Query = plan.Step(ms("query"), cpu("query"))
	return m
}

// capacity is how many claims per second the machine stands when a life costs so much.
func (k *calibrator) capacity(cost float64) float64 {
	refill, _ := plan.Defaults(runtime.NumCPU())
	return 1e3 * min(float64(runtime.NumCPU())/cost, float64(refill)/k.took["make"].Series().P50)
}

// keepAll keeps the series that a plan is made of.
func (k *calibrator) keepAll(costs []float64) {
	saturated, contention := recorder.New("life_saturated", k.golden, "ms"), recorder.New("contention", k.golden, "times")
	for _, cost := range costs {
		saturated.Add(cost)
		contention.Add(k.contention(cost))
	}
	for _, step := range lifeSteps {
		k.keep(k.took[step], k.cpu[step])
	}
	k.keep(saturated, contention)
}
