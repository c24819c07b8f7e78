package scenario

import (
	"context"
	"slices"

	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// anyEngine are the scenarios that look at nothing but whether clones answer. The others compare them
// with what PostgreSQL, pgbench and their like do.
var anyEngine = []string{"cold", "destroy", "claim", "pool", "throughput", "density", "goldens"}

// AnyEngine lists the scenarios that goldens of any engine can have.
func AnyEngine() []string { return slices.Clone(anyEngine) }

// coldAlone measures clones beside nothing: of another engine than PostgreSQL, or of a golden of the user's own.
func coldAlone(ctx context.Context, t *take, golden string) error {
	r := recorder.New("ctrsnap", golden, "ms")
	err := interleave(ctx, t, warmUp, t.rounds(100), []*recorder.Recorder{r},
		func(ctx context.Context, _ int) error { return t.coldClone(ctx, golden, r, checkRows) })
	if t.Golden != "" {
		t.skip("cold_vs_bare: a bare server is started on goldens of the benchmark's own alone, not with --golden")
	} else {
		t.skip("cold_vs_bare: a bare server is PostgreSQL's alone; 'make test-engines' has those of others")
	}
	t.keep(r)
	return err
}

// buildOther builds a golden of another engine.
func (e *Env) buildOther(ctx context.Context, name string) (api.Golden, error) {
	base := "--from-host"
	if e.Prefix != "" {
		base += "=" + e.Prefix
	}
	args := []string{"golden", "build", e.ref(name), "--engine", e.Engine, base, "--quiet"}
	if e.Init != "" {
		args = append(args, "--init", e.Init)
	} else {
		args = append(args, "--exec", "true")
	}
	if _, err := e.Rig.CLI(ctx, args...); err != nil {
		return api.Golden{}, err
	}
	return client.Do(ctx, e.Rig.Client(), api.GetGolden, api.GoldenArgs{Ref: e.ref(name)})
}
