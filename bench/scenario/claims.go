package scenario

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/bench/recorder"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// claims has eight callers take clones while the daemon is restarted, killed
// every other time. No clone may be handed out twice, and none that had been
// written to.
func claims(ctx context.Context, t *take) error {
	const golden = "shop"
	if !t.Rig.Own() {
		t.skip("claims: the daemon is restarted, and this one is not the run's own")
		return nil
	}
	if _, err := t.golden(ctx, golden); err != nil {
		return err
	}
	if err := t.setPoolIfAny(ctx, golden, poolSize); err != nil {
		return err
	}
	run := &claimRun{take: t, golden: golden, wanted: int64(t.Claims), seen: map[string]bool{}, latency: recorder.New("claim", golden, "ms")}
	err := run.all(ctx)
	t.note("%d claims of %d by %d callers, %d restarts of the daemon, %d requests repeated because it was away",
		run.done.Load(), run.wanted, parallel, run.restarts, run.retries.Load())
	if run.done.Load() < run.wanted && err == nil {
		t.skip("%d of %d claims: the time was over", run.wanted-run.done.Load(), run.wanted)
	}
	t.keep(run.latency)
	return errors.Join(err, t.setPoolIfAny(ctx, golden, 0), run.clear(ctx))
}

type claimRun struct {
	*take
	golden   string
	wanted   int64
	latency  *recorder.Recorder
	restarts int
	begun    atomic.Int64
	done     atomic.Int64
	retries  atomic.Int64
	epoch    atomic.Int64 // odd while the daemon is restarted

	mu   sync.Mutex
	seen map[string]bool
}

// all runs the callers and the restarts.
func (r *claimRun) all(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	callersDone := make(chan struct{})
	g.Go(func() error { return r.restartAll(ctx, callersDone) })
	g.Go(func() error {
		defer close(callersDone)
		callers, ctx := errgroup.WithContext(ctx)
		for range parallel {
			callers.Go(func() error { return r.caller(ctx) })
		}
		return callers.Wait()
	})
	return g.Wait()
}

// restartAll restarts the daemon when each part of the claims is done.
func (r *claimRun) restartAll(ctx context.Context, callersDone <-chan struct{}) error {
	for i := range r.Restarts {
		at := r.wanted * int64(i+1) / int64(r.Restarts+1)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for r.done.Load() < at {
			select {
			case <-tick.C:
			case <-callersDone:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		sig := terminate
		if i%2 == 0 {
			sig = kill
		}
		r.epoch.Add(1)
		if err := errors.Join(r.Rig.Stop(sig), r.Rig.Start(ctx, r.Daemon)); err != nil {
			return err
		}
		r.epoch.Add(1)
		r.restarts++
	}
	return nil
}

// caller claims until enough are claimed or the time is over.
func (r *claimRun) caller(ctx context.Context) error {
	for r.begun.Add(1) <= r.wanted && ctx.Err() == nil && time.Now().Before(r.Deadline) {
		if err := r.claim(ctx); err != nil {
			if err := r.fail(ctx, r.latency, err); err != nil {
				return err
			}
		}
		r.done.Add(1)
	}
	return ctx.Err()
}

// claim takes one clone, checks that nobody had it, writes to it and removes
// it. Only requests are repeated: a clone answers also while the daemon is away.
func (r *claimRun) claim(ctx context.Context) error {
	var c api.Clone
	err := r.whileAway(ctx, func() error {
		begun := time.Now()
		resp, err := client.Do(ctx, r.Rig.Client(), api.CreateClones, api.CreateArgs{Body: api.CloneRequest{Golden: r.ref(r.golden)}})
		if err != nil {
			return err
		}
		c = resp.Clones[0]
		r.latency.AddDuration(time.Since(begun))
		return nil
	})
	if err != nil {
		return err
	}
	err = errors.Join(r.first(c.ID), r.fresh(ctx, c))
	return errors.Join(err, r.whileAway(ctx, func() error {
		err := client.Tell(ctx, r.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID})
		var e *api.Error
		if errors.As(err, &e) && e.Code == api.CodeNotFound {
			return nil // removed by a request whose answer was cut off
		}
		return err
	}))
}

// fresh fails if somebody has written to the clone, and writes to it.
func (r *claimRun) fresh(ctx context.Context, c api.Clone) error {
	err := endpoint(c).Want(ctx, rowCount+" WHERE to_regclass('claimed') IS NULL", fmt.Sprint(customers))
	if err != nil {
		return fmt.Errorf("clone %s is not fresh: %w", c.ID, err)
	}
	_, err = endpoint(c).Value(ctx, "CREATE TABLE claimed (); DELETE FROM customers WHERE id <= 10")
	return err
}

// first says if a clone was handed out before.
func (r *claimRun) first(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[id] {
		return fmt.Errorf("clone %s was handed out twice", id)
	}
	r.seen[id] = true
	return nil
}

// whileAway repeats what failed while the daemon was restarted: a request that
// is cut off is no error of the daemon's.
func (r *claimRun) whileAway(ctx context.Context, do func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		before := r.epoch.Load()
		err := do()
		if err == nil || before%2 == 0 && r.epoch.Load() == before {
			return err
		}
		r.retries.Add(1)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// clear removes what requests have left that were cut off: nobody knows them.
func (r *claimRun) clear(ctx context.Context) error {
	clones, err := client.Do(ctx, r.Rig.Client(), api.ListClones, api.ListClonesArgs{})
	if err != nil {
		return err
	}
	for _, c := range clones {
		err = errors.Join(err, client.Tell(ctx, r.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID}))
	}
	return errors.Join(err, r.drained(ctx, 0))
}
