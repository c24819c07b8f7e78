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
	img := images.Image{Name: name + currentSuffix, Labels: map[string]string{label: value}}
	if _, err := s.image(ctx, img.Name); err != nil {
		return fmt.Errorf("%s %s: %w", doing, name, s.notFound(err))
	}
	if _, err := s.images.Update(ctx, img, "labels."+label); err != nil {
		return fmt.Errorf("%s %s: %w", doing, name, err)
	}
	if err := s.opts.Save(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", doing, name, err)
	}
	return nil
}
