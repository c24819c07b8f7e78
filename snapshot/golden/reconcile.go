package golden

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// ReconcileOpts refine Reconcile.
type ReconcileOpts struct {
	// Void says that nothing of before runs any more, because the machine was
	// restarted: snapshots and container records of clones and builds go.
	Void bool
}

// Report says what Reconcile has found.
type Report struct {
	Builds     []string // ids of builds that were cut off and are now undone
	Snapshots  []string // keys of snapshots that were removed
	Containers []string // ids of container records that were removed
	Damaged    []string // goldens whose snapshot is missing; they are left as they are
}

// Reconcile removes what a process that died left of its changes of goldens: of
// builds everything, also a golden that was recorded but not confirmed yet. It is
// to be called at start, before any other method. Snapshots of clones are the
// business of whoever made them, unless they are void.
func (s *Store) Reconcile(ctx context.Context, o ReconcileOpts) (Report, error) {
	var r Report
	ctx = namespaced(ctx)
	err := errors.Join(s.voidClones(ctx, o, &r), s.undoBuilds(ctx, &r), s.check(ctx, &r))
	if err == nil {
		err = s.collect(ctx)
	}
	if err == nil && len(r.Builds)+len(r.Snapshots)+len(r.Containers) > 0 {
		err = s.opts.Save(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("reconcile goldens: %w", err)
	}
	return r, nil
}

// voidClones removes container records and clone snapshots.
func (s *Store) voidClones(ctx context.Context, o ReconcileOpts, r *Report) error {
	if !o.Void {
		return nil
	}
	containers, err := s.client.ContainerService().List(ctx, fmt.Sprintf("labels.%q", snapshot.LabelKind))
	if err != nil {
		return err
	}
	for _, c := range containers {
		if err := ignoreNotFound(s.client.ContainerService().Delete(ctx, c.ID)); err != nil {
			return err
		}
		r.Containers = append(r.Containers, c.ID)
	}
	return s.removeKind(ctx, snapshot.KindClone, r)
}

// undoBuilds takes back builds that were cut off, then what they held.
func (s *Store) undoBuilds(ctx context.Context, r *Report) error {
	all, err := s.leases.List(ctx,
		fmt.Sprintf("labels.%q==%s", snapshot.LabelKind, snapshot.KindBuild), fmt.Sprintf("labels.%q==%s", snapshot.LabelKind, kindRemoval))
	if err != nil {
		return err
	}
	for _, l := range all {
		if id, ok := strings.CutPrefix(l.ID, buildKey("")); ok {
			if err := s.undoBuild(ctx, id); err != nil {
				return err
			}
			r.Builds = append(r.Builds, id)
		}
	}
	if err := s.removeKind(ctx, snapshot.KindBuild, r); err != nil {
		return err
	}
	for _, l := range all {
		if err := ignoreNotFound(s.leases.Delete(ctx, leases.Lease{ID: l.ID})); err != nil {
			return err
		}
	}
	return nil
}

// undoBuild removes the golden that build id has recorded, if it got that far
// and nobody has cloned it since.
func (s *Store) undoBuild(ctx context.Context, id string) error {
	all, err := s.records.list(ctx, "")
	if err != nil {
		return err
	}
	for _, g := range all {
		if !strings.HasSuffix(g.Snapshot, "/"+id) {
			continue
		}
		if err := s.RemoveGolden(ctx, g.Ref()); err != nil && !errdefs.IsFailedPrecondition(err) {
			return err
		}
	}
	return nil
}

// removeKind removes all snapshots of one kind.
func (s *Store) removeKind(ctx context.Context, kind string, r *Report) error {
	keys, err := s.keys(ctx, fmt.Sprintf("labels.%q==%s", snapshot.LabelKind, kind))
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := ignoreNotFound(s.snapshots.Remove(ctx, key)); err != nil {
			return err
		}
		r.Snapshots = append(r.Snapshots, key)
	}
	return nil
}

// check looks for goldens that have lost their snapshot.
func (s *Store) check(ctx context.Context, r *Report) error {
	all, err := s.records.list(ctx, "")
	if err != nil {
		return err
	}
	for _, g := range all {
		_, err := s.snapshots.Stat(ctx, g.Snapshot)
		if errdefs.IsNotFound(err) {
			r.Damaged = append(r.Damaged, g.Ref().String())
		} else if err != nil {
			return err
		}
	}
	return nil
}
