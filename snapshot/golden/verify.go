package golden

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Labels on a version's record: when it was found to be damaged, and when it was
// last found to be sound.
const (
	labelDamaged  = "ctrsnap.io/damaged"
	labelVerified = "ctrsnap.io/verified"
)

// VerifyDigest reads the layer of a golden from the disk and compares it with what
// was built. The error is of class DataLoss if they differ, or if the disk has an
// error.
func (s *Store) VerifyDigest(ctx context.Context, ref snapshot.Ref) error {
	g, err := s.Golden(ctx, ref)
	if err != nil {
		return err
	}
	return s.verify(ctx, g, &reader{direct: true})
}

// verify compares, and marks the golden by what it finds.
func (s *Store) verify(ctx context.Context, g snapshot.Golden, r *reader) error {
	got, err := s.digest(namespaced(ctx), g, r)
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EUCLEAN) || errors.Is(err, unix.EBADMSG) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss) // not marked: it may be the cable's
	}
	if err != nil {
		return fmt.Errorf("verify golden %s: %w", g.Ref(), err)
	}
	var damaged error
	if got != g.Digest {
		damaged = fmt.Errorf("verify golden %s: layer is %s, was built as %s: %w", g.Ref(), got, g.Digest, errdefs.ErrDataLoss)
	}
	ctx = context.WithoutCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.records.list(namespaced(ctx), "")
	if err != nil {
		return errors.Join(damaged, fmt.Errorf("verify golden %s: %w", g.Ref(), err))
	}
	for _, below := range all {
		if damaged == nil && below.Snapshot == g.Base.Snapshot && below.Damaged() != nil {
			damaged = fmt.Errorf("verify golden %s: it is built on another: %w", g.Ref(), below.Damaged())
		}
	}
	if err := s.mark(namespaced(ctx), g, all, damaged); err != nil {
		return errors.Join(damaged, fmt.Errorf("mark golden %s: %w", g.Ref(), err))
	}
	return damaged
}

// mark records what was found out about a golden, and that it holds for all that is built on
// one that is damaged. The caller holds mu.
func (s *Store) mark(ctx context.Context, g snapshot.Golden, all []snapshot.Golden, damaged error) error {
	at, was := labelVerified, g.DamagedAt
	if damaged != nil {
		at = labelDamaged
	}
	now := time.Now().UTC().Truncate(time.Second)
	img := images.Image{Name: recordName(g.Ref()), Labels: map[string]string{at: now.Format(time.RFC3339)}}
	if _, err := s.records.images.Update(ctx, img, "labels."+labelDamaged, "labels."+labelVerified); err != nil {
		return err
	}
	if (damaged != nil) == !was.IsZero() {
		return nil // known: a date needs no checkpoint
	}
	err := s.opts.Save(ctx)
	if g.DamagedAt = (time.Time{}); damaged != nil {
		g.DamagedAt = now
	}
	s.opts.Marked(ctx, g)
	if damaged == nil {
		return err
	}
	for _, above := range all {
		if above.Base.Snapshot == g.Snapshot && above.DamagedAt.IsZero() {
			err = errors.Join(err, s.mark(ctx, above, all, damaged))
		}
	}
	return err
}

// timeOf reads a label; zero if there is none.
func timeOf(img images.Image, label string) time.Time {
	t, _ := time.Parse(time.RFC3339, img.Labels[label])
	return t
}
