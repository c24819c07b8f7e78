package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/testsuite"
)

func mustOpen(t testing.TB, size int) (*Pool, testsuite.Config) {
	t.Helper()
	cfg := testsuite.Setup(t)
	return testsuite.MustOpen(t, sized(size), cfg).(*Pool), cfg
}

// full waits until the pool has what it should have.
func full(t testing.TB, p *Pool) {
	t.Helper()
	await(t, func() bool { return p.Spare() >= p.opts.Size })
}

func await(t testing.TB, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !cond(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("waited too long")
		}
	}
}

func TestSpareOnesAreTakenAndReplaced(t *testing.T) {
	p, _ := mustOpen(t, 2)
	full(t, p)
	p.mu.Lock()
	p.opts.Size = 0 // no more
	p.mu.Unlock()
	made, _ := p.inner.Namespaces(t.Context())
	a, b := testsuite.MustAdd(t, p, "ca"), testsuite.MustAdd(t, p, "cb")
	for _, ns := range []network.Namespace{a, b} {
		if !slices.Contains(made, filepath.Base(ns.Path)) {
			t.Errorf("%s was not made ahead", ns.Path)
		}
	}
	if p.Spare() != 0 {
		t.Errorf("%d spare", p.Spare())
	}
	c := testsuite.MustAdd(t, p, "cc")
	if slices.Contains(made, filepath.Base(c.Path)) {
		t.Errorf("%s is taken twice", c.Path)
	}
	testsuite.MustRemove(t, p, "ca")
	if d := testsuite.MustAdd(t, p, "cd"); d.Path == a.Path || p.Spare() != 0 {
		t.Errorf("%s is used again", d.Path)
	}
}

// TestBurst has four times as many at once as there are spare.
func TestBurst(t *testing.T) {
	p, _ := mustOpen(t, 16)
	full(t, p)
	all := testsuite.AddMany(t, p, "c", 64, nil)
	paths, addrs := map[string]bool{}, map[string]bool{}
	for _, ns := range all {
		paths[ns.Path], addrs[ns.Addrs[0].String()] = true, true
		if err := testsuite.Dial(testsuite.Serve(t, ns)); err != nil {
			t.Error(err)
		}
	}
	if len(paths) != 64 || len(addrs) != 64 {
		t.Errorf("%d namespaces, %d addresses", len(paths), len(addrs))
	}
	full(t, p)
}

// TestRestartTakesUpSpareOnes has no process make what another has left.
func TestRestartTakesUpSpareOnes(t *testing.T) {
	cfg := testsuite.Setup(t)
	first, closeIt, err := sized(3)(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	full(t, first.(*Pool))
	if err := errors.Join(closeIt(), closeIt()); err != nil {
		t.Fatal(err)
	}
	before, _ := first.(*Pool).inner.Namespaces(t.Context())
	// What a crash leaves: a namespace without a record, a record without a
	// namespace, a record being written.
	orphan, err := first.(*Pool).inner.Add(t.Context(), newID(), network.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ghost := network.Namespace{ID: newID()}
	if err := first.(*Pool).records.add(ghost); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "pool", "new", "nx"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	second := testsuite.MustOpen(t, sized(3), cfg).(*Pool)
	await(t, func() bool {
		after, err := second.inner.Namespaces(t.Context())
		return err == nil && slices.Equal(after, before)
	})
	if second.Spare() != 3 || second.records.drop(ghost.ID) != nil {
		t.Errorf("%d spare", second.Spare())
	}
	if _, err := os.Stat(orphan.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("orphan: %v", err)
	}
	if ids, err := second.Namespaces(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("spare ones are listed: %v, %v", ids, err)
	}
}

// TestNamespacesFromBefore are those of a daemon that had no pool.
func TestNamespacesFromBefore(t *testing.T) {
	cfg := testsuite.Setup(t)
	first, closeIt, err := sized(0)(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	testsuite.MustAdd(t, first.(*Pool).inner, "ca")
	if err := closeIt(); err != nil {
		t.Fatal(err)
	}
	p := testsuite.MustOpen(t, sized(2), cfg)
	if ids, err := p.Namespaces(t.Context()); err != nil || !slices.Equal(ids, []string{"ca"}) {
		t.Errorf("namespaces %v, %v", ids, err)
	}
	if _, err := p.Add(t.Context(), "ca", network.Options{}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("add: %v", err)
	}
	testsuite.MustRemove(t, p, "ca")
	testsuite.MustAdd(t, p, "ca")
}

func TestUnusableOnesAreReplaced(t *testing.T) {
	p, _ := mustOpen(t, 3)
	full(t, p)
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Type() == "veth" {
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 4 {
		if err := testsuite.Dial(testsuite.Serve(t, testsuite.MustAdd(t, p, fmt.Sprintf("c%d", i)))); err != nil {
			t.Error(err)
		}
	}
}

func TestOwnIDsAreRefused(t *testing.T) {
	p, _ := mustOpen(t, 1)
	full(t, p)
	made, _ := p.inner.Namespaces(t.Context())
	if err := p.Remove(t.Context(), made[0]); !errdefs.IsInvalidArgument(err) {
		t.Errorf("remove of a spare one: %v", err)
	}
	if _, err := p.Add(t.Context(), newID(), network.Options{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("add: %v", err)
	}
}

// broken is a Provider that fails until it is mended.
type broken struct {
	network.Provider
	mended chan struct{}
}

func (b broken) Add(ctx context.Context, id string, _ network.Options) (network.Namespace, error) {
	select {
	case <-b.mended:
		return network.Namespace{ID: id}, nil
	default:
		return network.Namespace{}, errdefs.ErrUnavailable
	}
}

func (b broken) Namespaces(context.Context) ([]string, error)          { return nil, nil }
func (b broken) Assign(context.Context, string, network.Options) error { return nil }
func (b broken) Remove(context.Context, string) error                  { return nil }

// TestFailureIsReportedAndTriedAgain needs no root: all that it makes is files.
func TestFailureIsReportedAndTriedAgain(t *testing.T) {
	inner := broken{mended: make(chan struct{})}
	p, err := Open(t.Context(), inner, Options{Dir: t.TempDir(), Size: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Add(t.Context(), "ca", network.Options{}); !errdefs.IsUnavailable(err) {
		t.Errorf("add: %v", err)
	}
	close(inner.mended)
	if _, err := p.Add(t.Context(), "ca", network.Options{}); err != nil {
		t.Errorf("add: %v", err)
	}
	await(t, func() bool { return p.Spare() == 2 })
}

func TestRelativeDir(t *testing.T) {
	if _, err := Open(t.Context(), broken{}, Options{Dir: "x"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("open: %v", err)
	}
}
