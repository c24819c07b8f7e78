package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/machine"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// points are where scale measures; fewer in a smoke run.
type points struct{ full, quick []int }

func (t *take) points(p points) []int {
	if t.Quick {
		return p.quick
	}
	return p.full
}

// pointRounds is how many values each point has.
const pointRounds = 20

// scale measures how cost grows as work grows. What takes longest to prepare comes last:
// it is skipped first where the time is over. The first point has the goldens that there are
// already: one, if nothing has run before.
func scale(ctx context.Context, t *take) error {
	for _, part := range []func(context.Context, *take) error{scaleFewGoldens, scaleLive, scaleCallers, scaleDepth, scaleFiles, scaleManyGoldens} {
		if time.Now().After(t.Deadline) {
			t.skip("the rest: the time was over")
			return nil
		}
		if err := part(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// late says that the time is over for what is named, which is skipped then.
func (t *take) late(format string, args ...any) bool {
	what := fmt.Sprintf(format, args...)
	if time.Now().After(t.Deadline) {
		t.skip("%s: the time was over", what)
		return true
	}
	t.say("scale: %s", what)
	return false
}

// livePoints are numbers of clones that live beside the one that is measured.
var livePoints = points{[]int{1, 10, 100, 500, 1000}, []int{1, 5}}

// scaleLive measures claim, cold clone and removal beside live clones. The first
// point is measured again in the end: what changed otherwise meanwhile would show.
func scaleLive(ctx context.Context, t *take) (err error) {
	const golden = "app"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	var live []api.Clone
	defer func() { err = errors.Join(err, t.empty(ctx, live)) }()
	cold := map[int]*recorder.Recorder{}
	for _, n := range t.points(livePoints) {
		if n > 1 && t.late("%d live clones", n) {
			break
		}
		if live, err = t.grow(ctx, golden, live, n); err != nil {
			return err
		}
		if len(live) < n {
			t.skip("%d live clones: memory for %d", n, len(live))
			break
		}
		if cold[n], err = t.beside(ctx, golden, n, live); err != nil {
			return err
		}
	}
	if cold[1000] != nil {
		t.ratio(bench.Compare("cold_1000_live_vs_1", cold[1000].Series(), cold[1].Series()))
	}
	rest := live[1:]
	live = live[:1]
	if err := t.emptyBut(ctx, rest, 1); err != nil {
		return err
	}
	again := newDestruction(golden).at("live", 1).at("again", 1)
	if err := t.repeat(ctx, func(ctx context.Context) error { return t.destroyOne(ctx, golden, again) }, again.create); err != nil {
		return err
	}
	t.keep(again.create)
	return nil
}

// beside measures beside n live clones, and what the daemon takes for them.
func (t *take) beside(ctx context.Context, golden string, n int, live []api.Clone) (*recorder.Recorder, error) {
	d := newDestruction(golden).at("live", float64(n))
	if err := t.repeat(ctx, func(ctx context.Context) error { return t.destroyOne(ctx, golden, d) }, d.create, d.gone); err != nil {
		return nil, err
	}
	if err := t.upkeep(ctx, golden, n); err != nil {
		return nil, err
	}
	claim := recorder.New("claim", golden, "ms").At("live", float64(n))
	if err := t.claims(ctx, golden, claim); err != nil {
		return nil, err
	}
	if err := checkRows(ctx, endpoint(live[len(live)-1])); err != nil {
		return nil, err
	}
	t.keep(d.create, d.gone, claim)
	return d.create, nil
}

// claims measures requests that the pool answers.
func (t *take) claims(ctx context.Context, golden string, r *recorder.Recorder) error {
	const members = 4
	if err := t.pooled(ctx, golden, members); errors.Is(err, errNoPool) {
		return nil
	} else if err != nil {
		return err
	}
	err := t.repeat(ctx, func(ctx context.Context) error {
		c, took, _, err := t.clone(ctx, golden)
		if err != nil {
			return err
		}
		err = errors.Join(checkRows(ctx, endpoint(c)), t.remove(ctx, c.ID), t.warm(ctx, golden, members))
		if _, hit := c.Timings[api.StageClaim]; err == nil && hit {
			r.AddDuration(took)
		}
		return err
	}, r)
	return errors.Join(err, t.setPool(ctx, golden, 0))
}

// repeat measures at one point, for a quarter of the span of a comparison: there are
// many points. The first value is not counted.
func (t *take) repeat(ctx context.Context, do func(context.Context) error, recorders ...*recorder.Recorder) error {
	return interleaveFor(ctx, t, t.Span/4, 1, t.rounds(pointRounds), recorders, func(ctx context.Context, _ int) error { return do(ctx) })
}

// grow makes clones until there are n, or memory runs out.
func (t *take) grow(ctx context.Context, golden string, live []api.Clone, n int) ([]api.Clone, error) {
	made := make([]api.Clone, max(n-len(live), 0))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i := range made {
		if machine.Memory("MemAvailable") < reserve || gctx.Err() != nil {
			break
		}
		g.Go(func() (err error) {
			made[i], _, _, err = t.clone(gctx, golden)
			return err
		})
	}
	err := g.Wait()
	for _, c := range made {
		if c.ID != "" {
			live = append(live, c)
		}
	}
	return live, err
}

// upkeep records what the daemon and its shims take while clones live and nobody asks
// for anything, and what all of the host takes then: servers, and a kernel that looks after
// the memory of so many.
func (t *take) upkeep(ctx context.Context, golden string, live int) error {
	pid, err := t.Rig.PID()
	if err != nil {
		return err
	}
	shims, err := t.shims()
	if err != nil {
		return err
	}
	at := func(name, unit string) *recorder.Recorder {
		return recorder.New(name, golden, unit).At("live", float64(live))
	}
	bytes, shimBytes, cpu, host := at("daemon_memory", "bytes"), at("shims_memory", "bytes"), at("daemon_cpu", "ms/s"), at("host_cpu", "ms/s")
	own, err := machine.ProcessMemory(pid)
	if err != nil {
		return err
	}
	bytes.Add(float64(own))
	sum := int64(0)
	for _, shim := range shims {
		n, err := machine.ProcessMemory(shim)
		if err != nil {
			return err
		}
		sum += n
	}
	shimBytes.Add(float64(sum))
	const watched = 2 * time.Second
	worked := machine.CPUTime()
	used, err := watchCPU(ctx, append(shims, pid), watched)
	if err != nil {
		return err
	}
	cpu.Add(used)
	host.Add(recorder.Milliseconds(machine.CPUTime()-worked) / watched.Seconds())
	t.keep(bytes, shimBytes, cpu, host)
	return nil
}

// watchCPU returns how many milliseconds per second the processes work.
func watchCPU(ctx context.Context, pids []int, d time.Duration) (float64, error) {
	sum := func() (total time.Duration, err error) {
		for _, pid := range pids {
			used, err := machine.ProcessCPU(pid)
			if err != nil {
				return 0, err
			}
			total += used
		}
		return total, nil
	}
	before, err := sum()
	if err != nil {
		return 0, err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := sum()
	return recorder.Milliseconds(after-before) / d.Seconds(), err
}

// shims are the processes of the daemon's shims, by the files that they leave.
func (e *Env) shims() ([]int, error) {
	return machine.ProcessesIn("ctrsnap-shim", e.Rig.State())
}

// derived builds a golden on top of another; what it adds is one row and what script does.
func (t *take) derived(ctx context.Context, name, parent, script string) error {
	t.mu.Lock()
	_, ok := t.built[name]
	t.mu.Unlock()
	if ok {
		return nil
	}
	file := filepath.Join(t.Rig.Work(), name+filepath.Ext("x.sql"))
	if len(script) > 0 && script[0] == '#' {
		file = filepath.Join(t.Rig.Work(), name+".sh")
	}
	if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
		return err
	}
	if _, err := t.Rig.CLI(ctx, "golden", "build", t.ref(name), "--parent", t.ref(parent), "--init", file, "--quiet"); err != nil {
		return fmt.Errorf("golden %s: %w", name, err)
	}
	g, err := client.Do(ctx, t.Rig.Client(), api.GetGolden, api.GoldenArgs{Ref: t.ref(name)})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.built[name] = g
	t.order = append(t.order, name)
	return nil
}
