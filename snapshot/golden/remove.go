package golden

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// Promote makes ref the current version of its name, atomically and durably.
func (s *Store) Promote(ctx context.Context, ref snapshot.Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.promote(namespaced(ctx), ref); err != nil {
		return fmt.Errorf("promote golden %s: %w", ref, notFound(err))
	}
	return nil
}

func (s *Store) promote(ctx context.Context, ref snapshot.Ref) (err error) {
	if ref.Version == 0 {
		return snapshot.WithHint(fmt.Errorf("no version given: %w", errdefs.ErrInvalidArgument), "say which: NAME:VERSION")
	}
	img, err := s.records.image(ctx, recordName(ref))
	if err != nil {
		return err
	}
	c := change{failpoint: s.opts.Failpoint}
	defer func() { err = c.end(ctx, err) }()
	if err := c.step(ctx, "promote", func(ctx context.Context) error {
		undo, err := s.records.set(ctx, recordName(snapshot.Ref{Name: ref.Name}), ref.Name, img.Target, snapshot.DefaultAccess)
		c.onFail(undo)
		return err
	}); err != nil {
		return err
	}
	return c.step(ctx, "checkpoint", s.opts.Save)
}

// RemoveGolden removes one version, or with version 0 all of them. If the current
// version is removed, the highest one left becomes current. Its files go later,
// with containerd's garbage collection.
func (s *Store) RemoveGolden(ctx context.Context, ref snapshot.Ref) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.remove(namespaced(ctx), ref); err != nil {
		return fmt.Errorf("remove golden %s: %w", ref, notFound(err))
	}
	return nil
}

func (s *Store) remove(ctx context.Context, ref snapshot.Ref) (err error) {
	all, err := s.records.list(ctx, ref.Name)
	if err != nil {
		return err
	}
	var gone, left []snapshot.Golden
	for _, g := range all {
		if ref.Version == 0 || ref.Version == g.Version {
			gone = append(gone, g)
		} else {
			left = append(left, g)
		}
	}
	if len(gone) == 0 {
		return errdefs.ErrNotFound
	}
	for _, g := range gone {
		l := s.lock(g.Ref())
		l.Lock()
		defer l.Unlock()
	}
	if err := s.unused(ctx, gone); err != nil {
		return err
	}
	c := change{failpoint: s.opts.Failpoint}
	defer func() { err = c.end(ctx, err) }()
	// Until the checkpoint that forgets the goldens is on disk, the lease keeps
	// their files: after a power loss the checkpoint before is what counts.
	var release func(context.Context) error
	if err := c.step(ctx, "hold", func(ctx context.Context) (err error) {
		release, err = s.hold(ctx, gone)
		c.onFail(release)
		return err
	}); err != nil {
		return err
	}
	if err := s.forget(ctx, &c, gone, left); err != nil {
		return err
	}
	if err := c.step(ctx, "checkpoint", s.opts.Save); err != nil {
		return err
	}
	c.undo = undo.Stack{}
	// It is gone, durably: whatever fails from here on is garbage that a start collects.
	return errors.Join(c.step(ctx, "remove", func(ctx context.Context) error { return s.removeSnapshots(ctx, gone) }),
		c.step(ctx, "release", release))
}

// removeSnapshots removes the snapshots of goldens, children before parents. The
// garbage collector would do it too, but leaves the parent's link to a child that
// it removes, and the parent can then not be removed by name. For that reason
// what cannot be removed here is left to the collector.
func (s *Store) removeSnapshots(ctx context.Context, goldens []snapshot.Golden) error {
	for _, g := range slices.Backward(goldens) {
		err := s.snapshots.Remove(ctx, g.Snapshot)
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
			return err
		}
	}
	return nil
}

// forget deletes the image records of gone and sets current to what is left.
func (s *Store) forget(ctx context.Context, c *change, gone, left []snapshot.Golden) error {
	current := recordName(snapshot.Ref{Name: gone[0].Name})
	if slices.ContainsFunc(gone, func(g snapshot.Golden) bool { return g.Current }) {
		if err := c.step(ctx, "heir", func(ctx context.Context) error { return s.replaceCurrent(ctx, c, current, left) }); err != nil {
			return err
		}
	}
	for _, g := range gone {
		if err := c.step(ctx, "forget", func(ctx context.Context) error {
			undo, err := s.records.delete(ctx, recordName(g.Ref()))
			c.onFail(undo)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// replaceCurrent moves the record current to the last of left, or deletes it.
func (s *Store) replaceCurrent(ctx context.Context, c *change, current string, left []snapshot.Golden) error {
	if len(left) == 0 {
		undo, err := s.records.delete(ctx, current)
		c.onFail(undo)
		return err
	}
	heir := left[len(left)-1]
	img, err := s.records.image(ctx, recordName(heir.Ref()))
	if err != nil {
		return err
	}
	undo, err := s.records.set(ctx, current, heir.Name, img.Target, heir.Access)
	c.onFail(undo)
	return err
}

// unused fails if a snapshot that is not of gone stands on one that is.
func (s *Store) unused(ctx context.Context, gone []snapshot.Golden) error {
	var filters []string
	mine := map[string]bool{}
	for _, g := range gone {
		mine[g.Snapshot] = true
		filters = append(filters, fmt.Sprintf("parent==%q", g.Snapshot))
	}
	var users []string
	if err := s.snapshots.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if !mine[info.Name] {
			users = append(users, describe(info))
		}
		return nil
	}, filters...); err != nil || len(users) == 0 {
		return err
	}
	slices.Sort(users)
	return snapshot.WithHint(
		fmt.Errorf("in use by %s: %w", strings.Join(users, ", "), errdefs.ErrFailedPrecondition),
		"remove those first")
}

// describe names the user of a snapshot.
func describe(info snapshots.Info) string {
	switch {
	case info.Labels[snapshot.LabelKind] == snapshot.KindClone:
		return "clone " + info.Name
	case info.Labels[labelGolden] != "":
		return "golden " + info.Labels[labelGolden]
	case info.Labels[snapshot.LabelKind] == snapshot.KindBuild:
		return "build " + strings.TrimPrefix(info.Name, buildKey(""))
	default:
		return "snapshot " + info.Name
	}
}

// hold keeps all of the goldens from the garbage collector until release.
func (s *Store) hold(ctx context.Context, goldens []snapshot.Golden) (release func(context.Context) error, err error) {
	l, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithLabels(map[string]string{snapshot.LabelKind: kindRemoval}))
	if err != nil {
		return nil, err
	}
	release = func(ctx context.Context) error { return s.leases.Delete(ctx, l) }
	c := change{}
	c.onFail(release)
	defer func() { err = c.end(ctx, err) }()
	for _, g := range goldens {
		img, err := s.records.image(ctx, recordName(g.Ref()))
		if err != nil {
			return nil, err
		}
		if err := s.leases.AddResource(ctx, l, manifest(img.Target)); err != nil {
			return nil, err
		}
	}
	return release, nil
}

// manifest is a golden's manifest as a lease names it: the collector goes from
// there to the rest.
func manifest(target ocispec.Descriptor) leases.Resource {
	return leases.Resource{ID: target.Digest.String(), Type: "content"}
}

// collect runs containerd's garbage collection and waits for it.
func (s *Store) collect(ctx context.Context) error {
	l, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithLabels(map[string]string{snapshot.LabelKind: kindRemoval}))
	if err != nil {
		return err
	}
	return s.leases.Delete(ctx, l, leases.SynchronousDelete)
}
