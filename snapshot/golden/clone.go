package golden

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// Prepare makes the writable snapshot of clone id, whose key is id, and returns
// its mounts, which are volatile and, like those of a build, have no devices. NotFound if the golden is gone or going.
func (s *Store) Prepare(ctx context.Context, id string, g snapshot.Golden) ([]mount.Mount, error) {
	if err := snapshot.ValidateName(id); err != nil {
		return nil, fmt.Errorf("prepare clone: %w", err)
	}
	mounts, err := s.prepare(namespaced(ctx), id, g)
	if err != nil {
		return nil, fmt.Errorf("prepare clone %s of golden %s: %w", id, g.Ref(), notFound(err))
	}
	return overlay.Foreign(overlay.Volatile(mounts)), nil
}

// prepare makes the snapshot unless RemoveGolden has the golden. The label makes
// the snapshot a root of the garbage collector by the same write that makes it.
func (s *Store) prepare(ctx context.Context, id string, g snapshot.Golden) ([]mount.Mount, error) {
	l := s.lock(g.Ref())
	l.RLock()
	defer l.RUnlock()
	img, err := s.records.image(ctx, recordName(g.Ref()))
	if err != nil {
		return nil, err
	}
	kept, err := s.records.load(ctx, img)
	if err != nil {
		return nil, err
	}
	kept.DamagedAt = timeOf(img, labelDamaged)
	if err := kept.Damaged(); err != nil {
		return nil, err
	}
	if kept.Snapshot != g.Snapshot {
		return nil, fmt.Errorf("it was removed and built anew: %w", errdefs.ErrNotFound)
	}
	mounts, err := s.snapshots.Prepare(ctx, id, g.Snapshot, snapshots.WithLabels(map[string]string{
		labelRoot:          time.Now().UTC().Format(time.RFC3339),
		snapshot.LabelKind: snapshot.KindClone,
	}))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(s.opts.Failpoint("prepared"), overlay.CopyUp(mounts, kept.Hot)); err != nil {
		return nil, errors.Join(err, s.snapshots.Remove(context.WithoutCancel(ctx), id))
	}
	return mounts, nil
}

// Remove removes the snapshot of clone id. Its files go later, with containerd's
// garbage collection.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := snapshot.ValidateName(id); err != nil {
		return fmt.Errorf("remove snapshot of clone: %w", err)
	}
	if err := ignoreNotFound(s.snapshots.Remove(namespaced(ctx), id)); err != nil {
		return fmt.Errorf("remove snapshot of clone %s: %w", id, err)
	}
	return nil
}

// Clones returns the ids of all clone snapshots that exist.
func (s *Store) Clones(ctx context.Context) ([]string, error) {
	ids, err := s.keys(namespaced(ctx), fmt.Sprintf("labels.%q==%s", snapshot.LabelKind, snapshot.KindClone))
	if err != nil {
		return nil, fmt.Errorf("list snapshots of clones: %w", err)
	}
	return ids, nil
}

// Builds returns the ids of all builds that there is a snapshot of.
func (s *Store) Builds(ctx context.Context) ([]string, error) {
	keys, err := s.keys(namespaced(ctx), fmt.Sprintf("labels.%q==%s", snapshot.LabelKind, snapshot.KindBuild))
	if err != nil {
		return nil, fmt.Errorf("list snapshots of builds: %w", err)
	}
	for i, key := range keys {
		keys[i] = strings.TrimPrefix(key, buildKey(""))
	}
	return keys, nil
}

// RemoveBuild removes what a build has left that nobody works on any more.
func (s *Store) RemoveBuild(ctx context.Context, id string) error {
	ctx = namespaced(ctx)
	err := ignoreNotFound(s.snapshots.Remove(ctx, buildKey(id)))
	if err = errors.Join(err, ignoreNotFound(s.leases.Delete(ctx, leases.Lease{ID: buildKey(id)}))); err != nil {
		return fmt.Errorf("remove snapshot of build %s: %w", id, err)
	}
	return nil
}

// keys returns the keys of the snapshots that filter selects.
func (s *Store) keys(ctx context.Context, filter string) ([]string, error) {
	var keys []string
	err := s.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		keys = append(keys, info.Name)
		return nil
	}, filter)
	return keys, err
}

// Usage returns the bytes of disk that clone id holds alone.
func (s *Store) Usage(ctx context.Context, id string) (int64, error) {
	n, err := s.usage(namespaced(ctx), id)
	if err != nil {
		return 0, fmt.Errorf("measure clone %s: %w", id, err)
	}
	return n, nil
}

func (s *Store) usage(ctx context.Context, id string) (int64, error) {
	if s.opts.Exclusive == nil {
		u, err := s.snapshots.Usage(ctx, id)
		return u.Size, err
	}
	mounts, err := s.snapshots.Mounts(ctx, id)
	if err != nil {
		return 0, err
	}
	dir, err := overlay.UpperDir(mounts)
	if err != nil {
		return 0, err
	}
	return s.opts.Exclusive(ctx, dir)
}

// ignoreNotFound is for removals, which are idempotent.
func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
