package manager

import (
	"context"
	"errors"
	"fmt"

	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// extra is a kind of thing of the host's that a clone may have beside its container: ports, further interfaces.
type extra interface {
	// name is what the clone has, in the plural.
	name() string
	// give gives c, which was made and which nobody has heard of, what the request wants. What old, whose place c
	// takes, has to give up for it, it has again by back, which also takes back what c was given if that cannot wait
	// for c's teardown. old is nil where there is none.
	give(ctx context.Context, want *plan, c, old *clone, back *undo.Stack) error
	// take takes away all that a clone has. netns is the path of its network namespace: "" says that there is none any
	// more, and what was in it is gone. It is idempotent.
	take(ctx context.Context, id, netns string) error
	// reconcile takes away what nobody was told of when an earlier process ended, and gives live clones back what a
	// successor had that was not handed out. It leaves the clones alone of which others says that they are not known.
	reconcile(ctx context.Context, live []*clone, others map[string]bool) error
}

// extras are all kinds that there are.
type extras []extra

// give gives clones what the request wants, before anybody hears of them, and then records them as ready. nil stands
// for none in either list. After an error, or a later one, back has their predecessors have all again that they had,
// and the caller discards the clones.
func (x extras) give(ctx context.Context, r *registry, want *plan, clones, old []*clone, back *undo.Stack) error {
	if want.isComplete() {
		return nil
	}
	for i, c := range clones {
		for _, e := range x {
			if c == nil {
				continue
			}
			if err := e.give(ctx, want, c, old[i], back); err != nil {
				return err
			}
		}
	}
	for _, c := range clones {
		if c == nil {
			continue
		}
		if err := r.update(ctx, c, func(r *record) { r.Ready = true }); err != nil {
			return err
		}
	}
	return nil
}

// take takes all away that a clone has.
func (x extras) take(ctx context.Context, id, netns string) error {
	var errs []error
	for _, e := range x {
		if err := e.take(ctx, id, netns); err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", e.name(), err))
		}
	}
	return errors.Join(errs...)
}

func (x extras) reconcile(ctx context.Context, live []*clone, others map[string]bool) error {
	var errs []error
	for _, e := range x {
		errs = append(errs, e.reconcile(ctx, live, others))
	}
	return errors.Join(errs...)
}

// isComplete says that a clone may be handed out when it has answered. One that lacks what it is to have beside is
// removed by a restart, which nobody was told of.
func (p *plan) isComplete() bool { return len(p.publish) == 0 && len(p.attach) == 0 }
