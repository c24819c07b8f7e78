package golden

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// testPoolSizes: a size stays with the name, whichever version is current, and
// goes with the last one.
func testPoolSizes(t *testing.T, e *env) {
	saved := 0
	save := e.opts.Save
	e.opts.Save = func(ctx context.Context) error { saved++; return save(ctx) }
	sizes := func(want map[string]int) {
		t.Helper()
		got, err := e.PoolSizes(e.ctx)
		do(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	if err := e.SetPoolSize(e.ctx, "shop", 1); !errdefs.IsNotFound(err) || hint(err) == "" {
		t.Errorf("of an unknown golden: %v", err)
	}
	e.commit(t, "shop", e.base, "f", "1")
	e.commit(t, "other", e.base, "f", "1")
	sizes(map[string]int{})
	before := saved
	do(t, e.SetPoolSize(e.ctx, "shop", 4))
	do(t, e.SetPoolSize(e.ctx, "other", 0))
	if saved != before+2 {
		t.Errorf("%d checkpoints of two changes", saved-before)
	}
	sizes(map[string]int{"shop": 4, "other": 0})
	e.commit(t, "shop", e.base, "f", "2")
	do(t, e.Promote(e.ctx, mustRef(t, "shop:1")))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop:1")))
	sizes(map[string]int{"shop": 4, "other": 0})
	e.assertGoldens(t, "other:1*", "shop:2*")
	do(t, e.SetPoolSize(e.ctx, "other", -1))
	sizes(map[string]int{"shop": 4})
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "other")))
	sizes(map[string]int{})
}
