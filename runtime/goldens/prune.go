package goldens

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Prune removes versions that nobody wants any more, and returns them: of those that the caller may remove. What turns
// out to be in use stays, and is no error.
func (g *Goldens) Prune(ctx context.Context, caller access.Caller, req api.PruneRequest) ([]api.Golden, error) {
	if req.Name != "" {
		if err := snapshot.ValidateName(req.Name); err != nil {
			return nil, err
		}
	}
	if req.Keep < 0 || req.UnusedFor < 0 || req.Keep == 0 && req.UnusedFor == 0 {
		return nil, snapshot.WithHint(
			fmt.Errorf("prune goldens: which of them is not said: %w", errdefs.ErrInvalidArgument),
			"say how many versions stay by --keep 5, or since when nobody has used those that go by --unused-for 720h")
	}
	all, err := g.opts.Store.Goldens(ctx)
	if err != nil {
		return nil, fmt.Errorf("prune goldens: %w", err)
	}
	newer := map[string]int{} // versions of the name that were seen
	old := map[snapshot.Ref]bool{}
	for _, one := range slices.Backward(all) {
		old[one.Ref()] = newer[one.Name] >= req.Keep && time.Since(g.opts.Uses.Last(one)) >= time.Duration(req.UnusedFor)
		newer[one.Name]++
	}
	gone := g.unused(all, func(one snapshot.Golden) bool {
		return old[one.Ref()] && (req.Name == "" || one.Name == req.Name) && caller.CheckWrite(one) == nil
	})
	if !req.DryRun {
		gone = slices.DeleteFunc(gone, func(one snapshot.Golden) bool {
			removed, e := g.removeIfUnused(ctx, caller, one, "pruned")
			err = errors.Join(err, e)
			return !removed
		})
	}
	list := make([]api.Golden, len(gone))
	for i, one := range gone {
		list[i] = g.Describe(one)
	}
	return list, err
}

// unused are those of all that pass, and that nobody uses who does not go as well: each before what it is built on.
func (g *Goldens) unused(all []snapshot.Golden, pass func(snapshot.Golden) bool) (gone []snapshot.Golden) {
	children := map[string]int{}
	for _, one := range all {
		children[one.Parent]++
	}
	left := slices.DeleteFunc(slices.Clone(all), func(one snapshot.Golden) bool {
		return one.Current || one.Access.Protected || g.opts.Clones.Live(one.Ref()) > 0 || !pass(one)
	})
	for more := true; more; {
		more = false
		left = slices.DeleteFunc(left, func(one snapshot.Golden) bool {
			free := children[one.Ref().String()] == 0
			if free {
				gone = append(gone, one)
				children[one.Parent]--
				more = true
			}
			return free
		})
	}
	return gone
}

// removeIfUnused removes a golden unless it has come to be used, current or protected.
func (g *Goldens) removeIfUnused(ctx context.Context, caller access.Caller, one snapshot.Golden, why string) (bool, error) {
	g.naming.Lock()
	defer g.naming.Unlock()
	now, err := g.opts.Store.Golden(ctx, one.Ref())
	if err == nil {
		err = caller.CheckWrite(now)
	}
	if err != nil || now.Current || now.Access.Protected || now.Snapshot != one.Snapshot {
		return false, ignoreGone(err)
	}
	// The store looks for snapshots that stand on it: those of clones, also ahead of who asks for them, of other goldens
	// and of builds.
	if err := g.opts.Store.RemoveGolden(ctx, one.Ref()); err != nil {
		return false, ignoreGone(err)
	}
	g.opts.Log.InfoContext(ctx, "golden removed", "golden", one.Ref().String(), "why", why)
	g.changed(ctx, caller, api.EventGoldenRemoved, one, why)
	return true, nil
}

// ignoreGone is for what somebody else has removed, or has begun to use.
func ignoreGone(err error) error {
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	return err
}

// MakeRoom removes goldens that were built with a key, and so are built anew where they are wanted again, until what
// they held comes to need bytes: first those of the user whose goldens hold most, and of these the one that was unused
// longest. It returns what they held, which is free once containerd has collected it.
func (g *Goldens) MakeRoom(ctx context.Context, need int64) (freed int64, err error) {
	all, err := g.opts.Store.Goldens(ctx)
	if err != nil {
		return 0, fmt.Errorf("make room: %w", err)
	}
	held := map[int]int64{} // by owner
	for _, one := range all {
		held[one.Access.Owner] += one.Size
	}
	list := g.unused(all, func(one snapshot.Golden) bool { return one.Key != "" })
	slices.SortStableFunc(list, func(x, y snapshot.Golden) int {
		a, b := x.Access.Owner, y.Access.Owner
		return cmp.Or(cmp.Compare(held[b], held[a]), cmp.Compare(a, b), g.opts.Uses.Last(x).Compare(g.opts.Uses.Last(y)))
	})
	for len(list) > 0 && freed < need && ctx.Err() == nil {
		// What another stands on that is to go later is refused now, and goes with the next look.
		removed, e := g.removeIfUnused(ctx, access.Daemon, list[0], "the storage is about to be full")
		if removed {
			freed += list[0].Size
		}
		err, list = errors.Join(err, e), list[1:]
	}
	return freed, err
}

const (
	pruneEvery = 10 * time.Minute
	roomEvery  = 5 * time.Second
	// freeAfter is when at last what was removed is free: ours collects after ten seconds. Until then nothing more is
	// removed for the same need.
	freeAfter = 30 * time.Second
)

// Pruner keeps goldens from piling up.
type Pruner struct {
	Goldens *Goldens
	Policy  api.PruneRequest // nothing is pruned by one that is zero
	// Short says how many bytes are missing to what is to be free of the storage; nil makes no room.
	Short func() int64
	Log   *slog.Logger
}

// Run prunes until ctx ends.
func (p Pruner) Run(ctx context.Context) {
	var prune, room <-chan time.Time
	if p.Policy != (api.PruneRequest{}) {
		prune = time.After(0)
	}
	if p.Short != nil {
		room = time.After(0)
	}
	for prune != nil || room != nil {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-prune:
			_, err = p.Goldens.Prune(ctx, access.Daemon, p.Policy)
			prune = time.After(pruneEvery)
		case <-room:
			var freed int64
			if need := p.Short(); need > 0 {
				freed, err = p.Goldens.MakeRoom(ctx, need)
			}
			room = time.After(roomEvery)
			if freed > 0 {
				room = time.After(freeAfter)
			}
		}
		if err != nil && ctx.Err() == nil {
			p.Log.ErrorContext(ctx, "prune goldens", "error", err)
		}
	}
}
