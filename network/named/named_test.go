package named

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
)

// fake keeps its ids in files, as real ones do.
type fake struct {
	dir, names string
	closed     *int
}

func (f fake) Add(_ context.Context, id string, opts network.Options) (network.Namespace, error) {
	if opts.Networks != "" {
		return network.Namespace{}, errors.New("names are not for it")
	}
	if _, err := os.Stat(filepath.Join(f.dir, "id-"+id)); err == nil {
		return network.Namespace{}, errdefs.ErrAlreadyExists
	}
	return network.Namespace{ID: id, Path: f.names}, os.WriteFile(filepath.Join(f.dir, "id-"+id), nil, 0o600)
}

func (f fake) Remove(_ context.Context, id string) error {
	return errors.Join(os.RemoveAll(filepath.Join(f.dir, "id-"+id)))
}

func (f fake) Assign(_ context.Context, id string, _ network.Options) error {
	_, err := os.Stat(filepath.Join(f.dir, "id-"+id))
	return err
}

func (f fake) Namespaces(context.Context) (ids []string, _ error) {
	files, err := filepath.Glob(filepath.Join(f.dir, "id-*"))
	for _, file := range files {
		ids = append(ids, strings.TrimPrefix(filepath.Base(file), "id-"))
	}
	return ids, err
}

func (f fake) Reconcile(context.Context, []string) error { return nil }
func (f fake) Teardown(context.Context) error            { return nil }
func (f fake) Close() error                              { *f.closed++; return nil }
func (f fake) String() string                            { return f.names }

type world struct {
	dir, def       string
	opened, closed int
}

func (w *world) open(t *testing.T) *Provider {
	t.Helper()
	p, err := Open(t.Context(), Options{
		Dir: w.dir, Default: fake{w.def, "default", &w.closed},
		Open: func(_ context.Context, dir string, names []string) (Network, error) {
			if slices.Contains(names, "nonesuch") {
				return nil, fmt.Errorf("find: %w", errdefs.ErrNotFound)
			}
			w.opened++
			return fake{dir, strings.Join(names, "+"), &w.closed}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newWorld(t *testing.T) *world { return &world{dir: t.TempDir(), def: t.TempDir()} }

func add(t *testing.T, p *Provider, id, names string) network.Namespace {
	t.Helper()
	ns, err := p.Add(t.Context(), id, network.Options{Networks: names})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestEachCombinationIsANetwork(t *testing.T) {
	w := newWorld(t)
	p := w.open(t)
	for id, names := range map[string]string{"ca": "", "cb": "one", "cc": "one,two", "cd": "one,two"} {
		want := strings.ReplaceAll(names, ",", "+")
		if want == "" {
			want = "default"
		}
		if ns := add(t, p, id, names); ns.Path != want {
			t.Errorf("%s is of %s, not of %s", id, ns.Path, want)
		}
	}
	if w.opened != 2 {
		t.Errorf("%d combinations opened", w.opened)
	}
	for _, names := range []string{"", "one", "two,one"} {
		if _, err := p.Add(t.Context(), "cc", network.Options{Networks: names}); names != "" && !errdefs.IsAlreadyExists(err) {
			t.Errorf("add again to %q: %v", names, err)
		}
		if _, err := p.Add(t.Context(), "ca", network.Options{Networks: names}); !errdefs.IsAlreadyExists(err) {
			t.Errorf("add again to %q: %v", names, err)
		}
	}
}

// TestRestart has another process know whose the namespaces are.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	first := w.open(t)
	add(t, first, "ca", "")
	add(t, first, "cb", "one,two")
	if err := first.Close(); err != nil || w.closed != 2 {
		t.Errorf("close: %v, %d closed", err, w.closed)
	}
	p := w.open(t)
	ids, err := p.Namespaces(t.Context())
	slices.Sort(ids)
	if err != nil || !slices.Equal(ids, []string{"ca", "cb"}) {
		t.Errorf("namespaces %v, %v", ids, err)
	}
	for _, id := range ids {
		if err := p.Assign(t.Context(), id, network.Options{Networks: "one"}); err != nil {
			t.Errorf("assign %s: %v", id, err)
		}
		if err := errors.Join(p.Remove(t.Context(), id), p.Remove(t.Context(), id)); err != nil {
			t.Errorf("remove %s: %v", id, err)
		}
	}
	if ids, _ := p.Namespaces(t.Context()); len(ids) > 0 {
		t.Errorf("left: %v", ids)
	}
	if err := p.Teardown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(w.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state left: %v", err)
	}
}

func TestBadNames(t *testing.T) {
	p := newWorld(t).open(t)
	for _, names := range []string{",", "a,", "../x", "a b", "a,a", "a,b,c,d,e", "a,none", "none,a", strings.Repeat("a", 65), "a\n"} {
		if _, err := p.Add(t.Context(), "ca", network.Options{Networks: names}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", names, err)
		}
	}
	if _, err := p.Add(t.Context(), "ca", network.Options{Networks: "nonesuch"}); !errdefs.IsNotFound(err) {
		t.Errorf("unknown network: %v", err)
	}
	if left, _ := os.ReadDir(p.opts.Dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for i := range maxCombinations {
		add(t, p, fmt.Sprintf("c%d", i), fmt.Sprintf("n%d", i))
	}
	if _, err := p.Add(t.Context(), "cx", network.Options{Networks: "nx"}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one more: %v", err)
	}
}
