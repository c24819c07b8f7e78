package golden

import (
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// testAccess: whose a name is, is said with its first version, and stays whichever
// version is current until the last is gone.
func testAccess(t *testing.T, e *env) {
	hers := snapshot.Access{Owner: 7, Group: 8, Mode: 0o640}
	check := func(want snapshot.Access) {
		t.Helper()
		for _, name := range []string{"shop", "shop:1", "shop:2"} {
			if g, err := e.Golden(e.ctx, mustRef(t, name)); err == nil && g.Access != want {
				t.Errorf("%s: %v, want %v", name, g.Access, want)
			}
		}
		all, err := e.Goldens(e.ctx)
		for _, g := range all {
			if g.Name == "shop" && g.Access != want || err != nil {
				t.Errorf("listed %s: %v, %v", g.Ref(), g.Access, err)
			}
		}
	}
	e.commitAs(t, "shop", e.base, "f", "1", hers)
	check(hers)
	if g := e.commitAs(t, "shop", e.base, "f", "2", snapshot.Access{Owner: 9, Mode: 0o666}); g.Access != hers {
		t.Errorf("the second version says %v", g.Access)
	}
	check(hers)
	do(t, e.Promote(e.ctx, mustRef(t, "shop:1")))
	check(hers)
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop:1")))
	check(hers)
	his := snapshot.Access{Owner: 9, Group: 9, Mode: 0o600}
	do(t, e.SetAccess(e.ctx, "shop", his))
	check(his)
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
	if err := e.SetAccess(e.ctx, "shop", his); !errdefs.IsNotFound(err) {
		t.Errorf("of a golden that is gone: %v", err)
	}
	e.commit(t, "shop", e.base, "f", "3")
	check(snapshot.DefaultAccess)
	do(t, e.RemoveGolden(e.ctx, mustRef(t, "shop")))
}
