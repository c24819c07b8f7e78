package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// takeUp sorts what there is: a namespace without a record was being made or
// removed when the earlier process ended.
func (p *Pool) takeUp(ctx context.Context) error {
	made, err := p.inner.Namespaces(ctx)
	if err != nil {
		return err
	}
	spare, err := p.records.spare()
	if err != nil {
		return err
	}
	taken, err := p.records.taken()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, ns := range taken {
		known[ns.ID] = true
	}
	for _, ns := range spare {
		if slices.Contains(made, ns.ID) && p.check(ctx, ns) {
			known[ns.ID] = true
			p.spare = append(p.spare, ns)
		} else if err := p.records.drop(ns.ID); err != nil {
			return err
		}
	}
	for _, id := range made {
		switch {
		case !ours(id):
			p.older[id] = true
		case !known[id]:
			p.waste = append(p.waste, id)
		}
	}
	return nil
}

// Reconcile has the inner Provider, if it can, free what it has of ids without
// a namespace. It can run at any time.
func (p *Pool) Reconcile(ctx context.Context, keep []string) error {
	inner, ok := p.inner.(interface {
		Reconcile(ctx context.Context, keep []string) error
	})
	if !ok {
		return nil
	}
	var kept []string
	for _, id := range keep {
		kept = append(kept, id)
		if ns, err := p.records.get(id); err == nil {
			kept = append(kept, ns.ID)
		}
	}
	return inner.Reconcile(ctx, kept)
}

// Loose returns the ids of which the inner Provider has something but no namespace.
func (p *Pool) Loose(ctx context.Context) ([]string, error) {
	if inner, ok := p.inner.(interface {
		Loose(ctx context.Context) ([]string, error)
	}); ok {
		return inner.Loose(ctx)
	}
	return nil, nil
}

// Teardown closes the pool, removes its spare namespaces and records, and has
// the inner Provider do the same. While namespaces are taken it fails with
// FailedPrecondition. It is idempotent; the Pool is not to be used after.
func (p *Pool) Teardown(ctx context.Context) error {
	taken, err := p.records.ids()
	if err != nil {
		return fmt.Errorf("tear down network pool: %w", err)
	}
	if len(taken) > 0 {
		return fmt.Errorf("tear down network pool: %d namespaces are taken (%s …): %w", len(taken), taken[0], errdefs.ErrFailedPrecondition)
	}
	if err := p.Close(); err != nil {
		return err
	}
	if err := p.empty(ctx); err != nil {
		return fmt.Errorf("tear down network pool: %w", err)
	}
	if inner, ok := p.inner.(interface {
		Teardown(ctx context.Context) error
	}); ok {
		return inner.Teardown(ctx)
	}
	return nil
}

// empty removes all namespaces of the pool's own ids.
func (p *Pool) empty(ctx context.Context) error {
	ids, err := p.inner.Namespaces(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if ours(id) {
			errs = append(errs, p.records.drop(id), p.inner.Remove(ctx, id))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return p.records.removeAll()
}
