// Package gc finds what is left of clones and builds that nobody has, and removes
// it. It knows no kind of leftover itself: whoever makes a kind of thing lists and
// removes it.
package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Kind is one sort of thing that clones, builds and their shims consist of.
type Kind struct {
	Name string // plural, for people
	// List returns the names of all there are.
	List func(ctx context.Context) ([]string, error)
	// Owner returns the id of the clone, build or sandbox that a thing is of, "" for
	// one that is nobody's whatever happens. nil: the name is the id.
	Owner func(name string) string
	// Remove removes one. It is idempotent.
	Remove func(ctx context.Context, name string) error
}

// Found is what there is of one kind.
type Found struct {
	Kind    string
	Used    int      // how many somebody has
	Orphans []string // the names of the others, sorted
	Err     error    // of listing or removing them; what is not removed is among the orphans all the same
}

// Find lists all kinds. used returns the ids that somebody has; it is called after a
// kind is listed, so that what is made meanwhile is not taken for an orphan: an id
// must be used before anything of it is made.
func Find(ctx context.Context, kinds []Kind, used func(ctx context.Context) (map[string]bool, error)) []Found {
	return run(ctx, kinds, used, func(Kind, string) error { return nil })
}

// Remove does so, and removes the orphans, kind by kind: what goes with one of the
// first is not found later.
func Remove(ctx context.Context, kinds []Kind, used func(ctx context.Context) (map[string]bool, error)) []Found {
	return run(ctx, kinds, used, func(k Kind, name string) error {
		if err := k.Remove(ctx, name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		return nil
	})
}

func run(ctx context.Context, kinds []Kind, used func(context.Context) (map[string]bool, error), do func(Kind, string) error) []Found {
	all := make([]Found, 0, len(kinds))
	for _, k := range kinds {
		f := find(ctx, k, used)
		for _, name := range f.Orphans {
			f.Err = errors.Join(f.Err, do(k, name))
		}
		all = append(all, f)
	}
	return all
}

func find(ctx context.Context, k Kind, used func(context.Context) (map[string]bool, error)) Found {
	f := Found{Kind: k.Name}
	names, err := k.List(ctx)
	if err != nil {
		f.Err = fmt.Errorf("list %s: %w", k.Name, err)
		return f
	}
	owners, err := used(ctx)
	if err != nil {
		f.Err = fmt.Errorf("list who has %s: %w", k.Name, err)
		return f
	}
	for _, name := range names {
		id := name
		if k.Owner != nil {
			id = k.Owner(name)
		}
		if owners[id] {
			f.Used++
		} else {
			f.Orphans = append(f.Orphans, name)
		}
	}
	slices.Sort(f.Orphans)
	return f
}
