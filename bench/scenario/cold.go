package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ctrsnap/ctrsnap/bench"
	"github.com/ctrsnap/ctrsnap/bench/peer"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// warmUp is how many rounds are run and not counted.
const warmUp = 2

// errTimeOver ends rounds that take too long.
var errTimeOver = errors.New("the time is over")

// cold compares a clone that nobody prepared with the same server on a plain
// copy.
func cold(ctx context.Context, t *take) error {
	golden := t.subject("shop")
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	if t.Engine != "" || t.Golden != "" {
		return coldAlone(ctx, t, golden)
	}
	o, login, err := t.study(ctx, golden)
	if err != nil {
		return err
	}
	over, under := recorder.New("ctrsnap", golden, "ms"), recorder.New("bare", golden, "ms")
	copying := recorder.New("reflink_copy", golden, "ms")
	err = interleave(ctx, t, warmUp, t.rounds(100), []*recorder.Recorder{over, under, copying},
		func(ctx context.Context, _ int) error { return t.coldClone(ctx, golden, over, checkRows) },
		func(ctx context.Context, _ int) error { return t.coldBare(ctx, o, login, under, copying) })
	t.note("bare: its copy is made ahead and not in the figure; reflink_copy says what it takes")
	t.compare("cold_vs_bare", over, under)
	t.keep(copying)
	return err
}

// interleave runs warm rounds, forgets them, and then runs the arms in turns.
// What an arm finds incorrect is counted on the recorder at its place.
func interleave(ctx context.Context, t *take, warm, rounds int, recorders []*recorder.Recorder, arms ...bench.Arm) error {
	return interleaveFor(ctx, t, t.Span, warm, rounds, recorders, arms...)
}

// interleaveFor is interleave with a span of its own.
func interleaveFor(ctx context.Context, t *take, span time.Duration, warm, rounds int, recorders []*recorder.Recorder, arms ...bench.Arm) error {
	end := time.Now().Add(time.Hour)
	counted := make([]bench.Arm, len(arms))
	for i, arm := range arms {
		counted[i] = func(ctx context.Context, round int) error {
			if i == 0 && time.Now().After(end) {
				t.note("ended after %d rounds of %d: %v were over", round, rounds, span)
				return errTimeOver
			}
			if err := arm(ctx, round); err != nil {
				return t.fail(ctx, recorders[i], err)
			}
			return nil
		}
	}
	if err := bench.Interleave(ctx, warm, counted...); err != nil {
		return err
	}
	for _, r := range recorders {
		r.Reset()
	}
	end = time.Now().Add(span)
	if err := bench.Interleave(ctx, rounds, counted...); !errors.Is(err, errTimeOver) {
		return err
	}
	return nil
}

// coldClone measures one clone, checks it and removes it.
func (t *take) coldClone(ctx context.Context, golden string, r *recorder.Recorder, check func(context.Context, peer.Endpoint) error) error {
	c, took, connect, err := t.clone(ctx, golden)
	if err != nil {
		return err
	}
	err = errors.Join(check(ctx, t.endpoint(c)), t.remove(ctx, c.ID))
	if err != nil {
		return fmt.Errorf("clone %s: %w", c.ID, err)
	}
	if _, pooled := c.Timings[api.StageCreate]; !pooled {
		return fmt.Errorf("clone %s is from a pool, not cold: %v", c.ID, c.Timings)
	}
	r.AddDuration(took)
	for stage, ms := range c.Timings {
		r.AddStage(string(stage), ms)
	}
	r.AddStage("query", recorder.Milliseconds(connect))
	r.AddStage("api", recorder.Milliseconds(took-connect)-c.Timings[api.StageTotal])
	return nil
}

// coldBare measures one start of a server on a copy of its own.
func (t *take) coldBare(ctx context.Context, o peer.Original, login peer.Endpoint, r, copying *recorder.Recorder) (err error) {
	begun := time.Now()
	b, err := t.bare(o, login)
	if err != nil {
		return err
	}
	copied := time.Since(begun)
	defer func() { err = errors.Join(err, b.Close()) }()
	begun = time.Now()
	if err := b.Start(ctx); err != nil {
		return err
	}
	took := time.Since(begun)
	if err := checkRows(ctx, b.Endpoint); err != nil {
		return err
	}
	r.AddDuration(took)
	copying.AddDuration(copied)
	return nil
}

// size compares clones of a big golden with clones of a small one, and looks at two
// between them.
func size(ctx context.Context, t *take) error {
	var all []*recorder.Recorder
	var arms []bench.Arm
	for _, golden := range []string{"big", "small", "app", "shop"} {
		if err := t.unpooled(ctx, golden); err != nil {
			return err
		}
		o, _, err := t.study(ctx, golden)
		if err != nil {
			return err
		}
		bytes, files, err := diskUsage(o.Golden)
		if err != nil {
			return err
		}
		t.note("golden %s: data directory of %d MiB in %d files", golden, bytes>>20, files)
		r := recorder.New(golden, golden, "ms").With("golden_bytes", float64(bytes))
		all = append(all, r)
		arms = append(arms, func(ctx context.Context, _ int) error { return t.coldClone(ctx, golden, r, checkRows) })
	}
	err := interleave(ctx, t, warmUp, t.rounds(60), all, arms...)
	t.compare("cold_big_vs_small", all[0], all[1])
	t.keep(all[2:]...)
	return err
}
