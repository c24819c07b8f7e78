package scenario

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench/recorder"
)

var (
	depthPoints   = points{[]int{1, 5, 20}, []int{1, 2}}
	fewGoldens    = points{[]int{1, 10}, []int{1}}
	manyGoldens   = points{[]int{100}, []int{5}}
	filePoints    = points{[]int{1_000, 10_000, 100_000}, []int{1_000}}
	callersPoints = points{[]int{1, 2, 4, 8, 16, 32, 64}, []int{1, 4}}
)

// oneRow is what each golden adds to its parent.
const oneRow = "CREATE TABLE IF NOT EXISTS depth (n int); INSERT INTO depth VALUES (1);\n"

// scaleDepth measures clones of goldens on top of goldens.
func scaleDepth(ctx context.Context, t *take) error {
	const base = "small"
	if err := t.unpooled(ctx, base); err != nil {
		return err
	}
	name, last := base, 1
	for _, depth := range t.points(depthPoints) {
		if t.late("depth %d", depth) {
			break
		}
		for ; last < depth; last++ {
			child := fmt.Sprintf("depth%d", last+1)
			if err := t.derived(ctx, child, name, oneRow); err != nil {
				return err
			}
			name = child
		}
		if err := t.coldAt(ctx, name, "depth", float64(depth)); err != nil {
			return err
		}
	}
	return nil
}

// scaleFewGoldens measures clones beside no more goldens than the run has made so far, and
// a few.
func scaleFewGoldens(ctx context.Context, t *take) error { return t.amongGoldens(ctx, fewGoldens) }

// scaleManyGoldens measures clones beside many goldens on the host.
func scaleManyGoldens(ctx context.Context, t *take) error { return t.amongGoldens(ctx, manyGoldens) }

// amongGoldens measures clones beside so many goldens at least.
func (t *take) amongGoldens(ctx context.Context, many points) error {
	const golden = "small"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	for _, n := range t.points(many) {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(2)
		for i := len(t.goldenNames()); i < n; i++ {
			g.Go(func() error { return t.derived(gctx, fmt.Sprintf("beside%d", i), golden, oneRow) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if err := t.coldAt(ctx, golden, "goldens", float64(len(t.goldenNames()))); err != nil {
			return err
		}
	}
	return nil
}

// manyFiles is a script that puts files into the data directory, in directories of a
// thousand.
const manyFiles = `#!/bin/sh
set -e
n=0
while [ $((n * 1000)) -lt %d ]; do
	mkdir -p "$PGDATA/bench/$n"
	(cd "$PGDATA/bench/$n" && seq 1000 | xargs touch)
	n=$((n + 1))
done
`

// scaleFiles measures clones of goldens with many files.
func scaleFiles(ctx context.Context, t *take) error {
	const golden = "small"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	for _, n := range t.points(filePoints) {
		if t.late("%d files", n) {
			break
		}
		name := fmt.Sprintf("files%d", n)
		if err := t.derived(ctx, name, golden, fmt.Sprintf(manyFiles, n)); err != nil {
			return err
		}
		if err := t.coldAt(ctx, name, "files", float64(n)); err != nil {
			return err
		}
	}
	return nil
}

// coldAt measures clones of a golden, their removal, and claims, at one point.
func (t *take) coldAt(ctx context.Context, golden, what string, value float64) error {
	if err := t.setPoolIfAny(ctx, golden, 0); err != nil {
		return err
	}
	d := newDestruction(golden).at(what, value)
	err := t.repeat(ctx, func(ctx context.Context) error { return t.destroyOne(ctx, golden, d) }, d.create, d.gone)
	claim := recorder.New("claim", golden, "ms").At(what, value)
	if err == nil {
		err = t.claims(ctx, golden, claim)
	}
	t.keep(d.create, d.gone, claim)
	return err
}

// scaleCallers measures how many clones per second more and more callers have made,
// asked and destroyed, and how long each waits.
func scaleCallers(ctx context.Context, t *take) error {
	const golden = "app"
	if err := t.unpooled(ctx, golden); err != nil {
		return err
	}
	length := 5 * time.Second
	if t.Quick {
		length = time.Second
	}
	for _, n := range t.points(callersPoints) {
		if t.late("%d callers", n) {
			break
		}
		rate := recorder.New("rate", golden, "1/s").At("callers", float64(n))
		latency := recorder.New("create", golden, "ms").At("callers", float64(n))
		begun := time.Now()
		ends, err := t.call(ctx, n, golden, length, rates{latency: latency})
		if err != nil {
			return err
		}
		rate.Add(float64(len(ends)) / time.Since(begun).Seconds())
		t.keep(rate, latency)
	}
	return nil
}
