package gc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// world is things by name, and who has them.
type world struct {
	things map[string]bool
	used   map[string]bool
	broken string // cannot be removed
}

func (w *world) kind() Kind {
	return Kind{
		Name:  "things",
		List:  func(context.Context) ([]string, error) { return slices.Collect(maps.Keys(w.things)), nil },
		Owner: func(name string) string { return strings.TrimPrefix(name, "dir/") },
		Remove: func(_ context.Context, name string) error {
			if name == w.broken {
				return errors.New("busy")
			}
			delete(w.things, name)
			return nil
		},
	}
}

func (w *world) owners(context.Context) (map[string]bool, error) { return w.used, nil }

// TestRemove removes what is nobody's, and says what it could not.
func TestRemove(t *testing.T) {
	w := &world{
		things: map[string]bool{"dir/c1": true, "dir/c2": true, "dir/c3": true},
		used:   map[string]bool{"c1": true, "c9": true}, broken: "dir/c3",
	}
	show := func(all []Found) (lines []string) {
		for _, f := range all {
			lines = append(lines, strings.Join(f.Orphans, " "))
			if f.Err != nil {
				lines = append(lines, f.Err.Error())
			}
		}
		return lines
	}
	if diff := cmp.Diff([]string{"dir/c2 dir/c3"}, show(Find(t.Context(), []Kind{w.kind()}, w.owners))); diff != "" || len(w.things) != 3 {
		t.Errorf("find: %s, %v", diff, w.things)
	}
	got := Remove(t.Context(), []Kind{w.kind()}, w.owners)
	if diff := cmp.Diff([]string{"dir/c2 dir/c3", "remove dir/c3: busy"}, show(got)); diff != "" || got[0].Used != 1 {
		t.Errorf("remove: %s, %+v", diff, got)
	}
	if len(w.things) != 2 || w.things["dir/c2"] {
		t.Errorf("left: %v", w.things)
	}
}

// TestMadeMeanwhile: what comes after the list was made has an owner by then.
func TestMadeMeanwhile(t *testing.T) {
	w := &world{things: map[string]bool{"dir/c1": true}, used: map[string]bool{}}
	late := func(ctx context.Context) (map[string]bool, error) {
		w.used["c1"] = true
		return w.owners(ctx)
	}
	if got := Remove(t.Context(), []Kind{w.kind()}, late); len(got[0].Orphans) > 0 || len(w.things) != 1 {
		t.Errorf("removed what is somebody's: %+v", got)
	}
}

// TestUnknown: without a list of owners nothing is anybody's to remove.
func TestUnknown(t *testing.T) {
	w := &world{things: map[string]bool{"dir/c1": true}}
	fail := func(context.Context) (map[string]bool, error) { return nil, errors.New("no answer") }
	if got := Remove(t.Context(), []Kind{w.kind()}, fail); got[0].Err == nil || len(w.things) != 1 {
		t.Errorf("%+v, left %v", got, w.things)
	}
}
