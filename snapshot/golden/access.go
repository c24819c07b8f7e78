package golden

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// labelAccess on a name's moving record is who may do what with its goldens. It is
// set with the name's first version, moves with the record and goes with the last.
const labelAccess = "ctrsnap.io/access"

// accessOf returns what a moving record says. One that nobody can read is root's alone.
func accessOf(current images.Image) snapshot.Access {
	text, ok := current.Labels[labelAccess]
	if !ok && current.Name != "" {
		return snapshot.DefaultAccess
	}
	a, err := snapshot.ParseAccess(text)
	if err != nil {
		return snapshot.Access{Mode: 0o600}
	}
	return a
}

// SetAccess says who may do what with the goldens of a name, durably.
func (s *Store) SetAccess(ctx context.Context, name string, a snapshot.Access) error {
	return s.setLabel(ctx, name, labelAccess, a.String(), "set access of golden")
}

// setLabel sets a label of a name's moving record, durably. containerd takes a label
// without value away.
func (s *Store) setLabel(ctx context.Context, name, label, value, doing string) error {
	ctx = namespaced(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.relabel(ctx, name+currentSuffix, label, value); err != nil {
		return fmt.Errorf("%s %s: %w", doing, name, notFound(err))
	}
	return nil
}

// relabel sets the label and checkpoints, or leaves it as it was.
func (s *Store) relabel(ctx context.Context, record, label, value string) (err error) {
	was, err := s.records.image(ctx, record)
	if err != nil {
		return err
	}
	set := func(value string) func(context.Context) error {
		return func(ctx context.Context) error {
			img := images.Image{Name: record, Labels: map[string]string{label: value}}
			_, err := s.records.images.Update(ctx, img, "labels."+label)
			return err
		}
	}
	c := change{failpoint: s.opts.Failpoint}
	defer func() { err = c.end(ctx, err) }()
	if err := c.step(ctx, "label", set(value)); err != nil {
		return err
	}
	c.onFail(set(was.Labels[label]))
	return c.step(ctx, "checkpoint", s.opts.Save)
}
