package manager

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Report says what Recover found.
type Report struct {
	Adopted int // clones that run on
	Members int // clones that wait in the pool
	Removed int // clones that were expired, dead or unfinished
	Orphans int // snapshots, networks and files without a container
}

// recoverer takes up what an earlier process has left.
type recoverer struct {
	host
	engines  runtime.Engines
	extras   extras
	registry *registry
	removals *removal.Queue
	deaths   *deaths
	warm     *warm
	parallel int
}

// recover adopts clones that run, and has all else torn down that belongs to clones. An error about one clone does not
// keep the others from being recovered; that clone is left alone.
func (r *recoverer) recover(ctx context.Context) (Report, error) {
	if err := r.files.open(); err != nil {
		return Report{}, err
	}
	infos, err := r.runner.Containers(ctx, map[string]string{snapshot.LabelKind: snapshot.KindClone})
	if err != nil {
		return Report{}, fmt.Errorf("recover clones: %w", err)
	}
	var mu sync.Mutex
	var report Report
	var errs []error
	known, alone := map[string]bool{}, map[string]bool{}
	var g errgroup.Group
	g.SetLimit(r.parallel)
	for _, info := range infos {
		known[info.ID] = true
		r.removals.Own(info.ID)
		g.Go(func() error {
			c, err := r.adopt(ctx, info)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				errs, alone[info.ID] = append(errs, err), true
			case c != nil && c.record().Member:
				report.Members++
			case c != nil:
				report.Adopted++
			default:
				report.Removed++
			}
			return nil
		})
	}
	_ = g.Wait() // errors are in errs
	errs = append(errs, r.extras.reconcile(ctx, r.registry.list(access.Daemon, nil), alone))
	orphans, err := r.orphans(ctx, known)
	for id := range orphans {
		r.removals.Remove(id)
	}
	report.Orphans = len(orphans)
	return report, errors.Join(append(errs, err)...)
}

// adopt takes up one clone. None means that it is being torn down.
func (r *recoverer) adopt(ctx context.Context, info runtime.ContainerInfo) (*clone, error) {
	c, err := r.revive(ctx, info)
	if c != nil {
		return c, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("adopt clone %s: %w", info.ID, err)
	}
	// What it has beside is free at once if it runs; the teardown does it again.
	if task, err := r.runner.Load(ctx, info.ID); err == nil {
		_ = r.extras.take(ctx, info.ID, namespaceOf(task))
	}
	r.removals.Remove(info.ID)
	return nil, nil
}

// revive returns a clone that goes on, and neither a clone nor an error for one that is not to. NotFound says that a
// part of it has gone.
func (r *recoverer) revive(ctx context.Context, info runtime.ContainerInfo) (*clone, error) {
	rec, err := parseRecord(info.Record)
	switch {
	case errdefs.IsFailedPrecondition(err):
		return nil, err
	case err != nil:
		r.log.Error("clone without a record is removed", "clone", info.ID, "error", err)
		return nil, nil
	case !rec.Ready || rec.ID != info.ID || !rec.resume(time.Now()):
		return nil, nil
	}
	golden, err := r.store.Golden(ctx, snapshot.Ref{Name: rec.Golden, Version: rec.Version})
	if err != nil {
		return nil, err
	}
	engine, err := r.engines.Engine(rec.Engine)
	if err != nil {
		return nil, fmt.Errorf("no engine %q: %w", rec.Engine, errdefs.ErrFailedPrecondition)
	}
	if rec.Member && !r.warm.isCurrent(golden, rec) {
		return nil, nil
	}
	task, err := r.runner.Load(ctx, info.ID)
	if err != nil {
		return nil, err
	}
	if !rec.Member && rec.OwnerUID != 0 { // it may be of a release that gave them the directory
		if err := r.files.Admit(info.ID, rec.OwnerUID); err != nil {
			return nil, err
		}
	}
	rec.PID = task.PID()
	if rec.Isolation == "" { // of a release that did not record it
		rec.Isolation = isolationOf(rec.PID)
	}
	if rec.Member && rec.Isolation != isolation(r.runner.Isolation()) {
		return nil, nil // ordinary users may get it
	}
	c := newClone(info.ID, golden, engine, r.files.Sockets(info.ID), rec)
	c.task = task
	if err := r.deaths.watch(c); err != nil {
		return nil, err
	}
	if rec.Member {
		c.proc = openPID(rec.PID)
		r.warm.members.Adopt(golden, c)
	} else {
		r.registry.resume(c)
	}
	return c, nil
}

// resume gives the end of a clone's life a reading of the monotonic clock again: see [record.live]. It returns false if
// it has passed.
func (r *record) resume(now time.Time) bool {
	if r.ExpiresAt == nil {
		return true
	}
	left := r.ExpiresAt.Sub(now)
	at := now.Add(left)
	r.ExpiresAt = &at
	return left > 0
}

// orphans returns the ids of clones of which there is anything but a container.
func (r *recoverer) orphans(ctx context.Context, known map[string]bool) (map[string]bool, error) {
	found := map[string]bool{}
	var errs []error
	for _, list := range []func(context.Context) ([]string, error){
		r.store.Clones, r.network.Namespaces, func(context.Context) ([]string, error) { return r.files.ids() },
	} {
		ids, err := list(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("find leftovers of clones: %w", err))
		}
		for _, id := range ids {
			found[id] = true
		}
	}
	maps.DeleteFunc(found, func(id string, _ bool) bool { return known[id] || !kind.Clone.Is(id) })
	return found, errors.Join(errs...)
}
