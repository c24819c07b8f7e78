package golden

import (
	"context"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Scrub verifies goldens, one after the other, until ctx ends. They are read past the page
// cache, so that nothing that clones use is driven out of it.
func (s *Store) Scrub(ctx context.Context, o snapshot.ScrubOpts) {
	tried := map[string]time.Time{} // digest of layer → when
	for o.Every > 0 && ctx.Err() == nil {
		g, due := s.due(ctx, o, tried)
		if wait := time.Until(due); due.IsZero() || wait > 0 {
			if longest := min(o.Every, time.Hour); due.IsZero() || wait > longest { // there may be new ones
				wait = longest
			}
			sleep(ctx, wait)
			continue
		}
		tried[g.Snapshot] = time.Now()
		if err := s.verify(ctx, g, &reader{direct: true, pace: o.Pace}); err != nil && ctx.Err() == nil {
			o.Failed(g, err)
		}
	}
}

// due returns the golden that is to be verified next, and when; zero for none.
func (s *Store) due(ctx context.Context, o snapshot.ScrubOpts, tried map[string]time.Time) (next snapshot.Golden, at time.Time) {
	all, err := s.Goldens(ctx)
	if err != nil {
		return next, at // it is tried again
	}
	for _, g := range all {
		last := latest(g.Created, g.DamagedAt, s.verifiedAt(ctx, g), tried[g.Snapshot])
		due := last.Add(o.Every)
		if last.Before(o.Since) {
			due = last
		}
		if at.IsZero() || due.Before(at) {
			next, at = g, due
		}
	}
	return next, at
}

func (s *Store) verifiedAt(ctx context.Context, g snapshot.Golden) time.Time {
	img, err := s.records.image(namespaced(ctx), recordName(g.Ref()))
	if err != nil {
		return time.Time{}
	}
	return timeOf(img, labelVerified)
}

func latest(times ...time.Time) (last time.Time) {
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
