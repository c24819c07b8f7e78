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
)

// calibrated is how many clones are made to learn what each step takes, and
// calibratedHits how many of them wait in a pool.
const (
	calibrated     = 24
	calibratedHits = 8
	// saturated is the size of the pool while all processors work.
	saturated = 2
)

// calibration is what the steps of a clone's life take on this machine.
type calibration struct {
	plan.Profile
	query sim.Step // what a caller asks of his clone
	each  float64  // seconds of processor time of one clone's life
	made  float64  // seconds that making one takes
}

// calibrator measures each step by itself: how long, and how much of the processors.
type calibrator struct {
	*take
	golden string
	live   []api.Clone
	took   map[string]*recorder.Recorder
	cpu    map[string]float64 // milliseconds
}

func calibrate(ctx context.Context, t *take, golden string) (c calibration, err error) {
	k := &calibrator{take: t, golden: golden, took: map[string]*recorder.Recorder{}, cpu: map[string]float64{}}
	defer func() { err = errors.Join(err, k.clear(context.WithoutCancel(ctx))) }()
	if err := k.steps(ctx); err != nil {
		return c, err
	}
	if err := k.load(ctx); err != nil {
		return c, err
	}
	return k.result(), nil
}

// steps measures each step alone on the machine.
func (k *calibrator) steps(ctx context.Context) error {
	if _, err := k.ask(ctx); err != nil { // to warm up
		return err
	}
	n := k.rounds(calibrated)
	hits := min(n, calibratedHits)
	if err := k.step("make", n, func(int) (time.Duration, error) { return k.ask(ctx) }); err != nil {
		return err
	}
	if err := k.step("query", n, func(i int) (time.Duration, error) { return k.query(ctx, k.live[i]) }); err != nil {
		return err
	}
	if err := k.step("remove", n, func(int) (time.Duration, error) { return k.removeLast(ctx) }); err != nil {
		return err
	}
	if err := k.pooled(ctx, k.golden, hits); err != nil {
		return err
	}
	return k.step("hit", hits, func(int) (time.Duration, error) { return k.ask(ctx) })
}

// step runs one n times.
func (k *calibrator) step(name string, n int, do func(i int) (time.Duration, error)) error {
	r := recorder.New(name, k.golden, "ms")
	before := machine.CPUTime()
	for i := range n {
		took, err := do(i)
		if err != nil {
			return fmt.Errorf("calibrate %s: %w", name, err)
		}
		r.AddDuration(took)
	}
	k.cpu[name], k.took[name] = recorder.Milliseconds(machine.CPUTime()-before)/float64(n), r
	return nil
}

// ask asks for a clone, and nothing of it.
func (k *calibrator) ask(ctx context.Context) (time.Duration, error) {
	begun := time.Now()
	resp, err := k.Rig.Client().Clone(ctx, api.CloneRequest{Golden: k.ref(k.golden)})
	if err != nil {
		return 0, err
	}
	k.live = append(k.live, resp.Clones[0])
	return time.Since(begun), nil
}

func (k *calibrator) query(ctx context.Context, c api.Clone) (time.Duration, error) {
	begun := time.Now()
	err := checkRows(ctx, endpoint(c))
	return time.Since(begun), err
}

func (k *calibrator) removeLast(ctx context.Context) (time.Duration, error) {
	id := k.live[len(k.live)-1].ID
	k.live = k.live[:len(k.live)-1]
	begun := time.Now()
	err := errors.Join(k.Rig.Client().RemoveClone(ctx, id), k.gone(ctx, id))
	return time.Since(begun), err
}

// load measures whole lives while more is asked than the machine can do, and scales the
// steps' processor time to what it can do then. Processors that share caches do less
// than twice as much, and steps wait for locks of the kernel: both make a life
// dearer than its steps alone, the latter without any processor being used.
func (k *calibrator) load(ctx context.Context) error {
	if err := errors.Join(k.clear(ctx), k.pooled(ctx, k.golden, saturated)); err != nil {
		return err
	}
	begun, before := time.Now(), machine.CPUTime()
	n, err := k.saturate(ctx)
	if err != nil {
		return err
	}
	all := recorder.Milliseconds(time.Since(begun)) * float64(runtime.NumCPU())
	used := recorder.Milliseconds(machine.CPUTime()-before) / all
	scale := all / float64(max(n, 1)) / (k.cpu["hit"] + k.cpu["make"] + k.cpu["query"] + k.cpu["remove"])
	k.note("processor time of each step is %.0f %% of what it took alone: with more callers than it can serve the machine made, handed out and removed %.1f clones per second, its processors %.0f %% busy",
		100*scale, float64(n)/time.Since(begun).Seconds(), 100*used)
	for name := range k.cpu {
		k.cpu[name] *= scale
	}
	return nil
}

// saturate has more callers at work than the machine can serve, for some time, and
// returns how many clones they had.
func (k *calibrator) saturate(ctx context.Context) (int, error) {
	length := 8 * time.Second
	if k.Quick {
		length = time.Second
	}
	end, r := time.Now().Add(length), recorder.New("", k.golden, "ms")
	g, gctx := errgroup.WithContext(ctx)
	for range 16 * runtime.NumCPU() {
		g.Go(func() error {
			for time.Now().Before(end) {
				keeps := min(kept, time.Until(end)).Seconds()
				if err := k.caller(gctx, k.golden, time.Now(), keeps, r); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := errors.Join(g.Wait(), k.setPool(ctx, k.golden, 0), k.drained(ctx, 0))
	return int(r.Series().N), err
}

// clear removes what was made.
func (k *calibrator) clear(ctx context.Context) error {
	live := k.live
	k.live = nil
	return errors.Join(k.setPool(ctx, k.golden, 0), k.empty(ctx, live))
}

// result keeps the series that a plan is made of.
func (k *calibrator) result() (c calibration) {
	for _, name := range []string{"make", "query", "remove", "hit"} {
		cpu := recorder.New(name+"_cpu", k.golden, "ms")
		cpu.Add(k.cpu[name])
		k.keep(k.took[name], cpu)
	}
	c.Refill, c.Slots = plan.Defaults(runtime.NumCPU())
	c.Machine.CPUs = runtime.NumCPU()
	c.Hit, c.Make, c.Remove = k.took["hit"].Series().Samples, k.took["make"].Series().Samples, k.took["remove"].Series().Samples
	c.HitCPU, c.MakeCPU, c.RemoveCPU = k.cpu["hit"], k.cpu["make"], k.cpu["remove"]
	c.query = plan.Step(k.took["query"].Series().Samples, k.cpu["query"])
	c.each = (c.HitCPU + c.MakeCPU + c.RemoveCPU + k.cpu["query"]) / 1e3
	c.made = k.took["make"].Series().P50 / 1e3
	return c
}
