package base_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/base"
)

// smallTree is a tree of one data file and the shell.
func smallTree(t *testing.T) (snapshot.HostTree, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // else it is not for all users
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.WriteFile(data, []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	return snapshot.HostTree{
		Name:  "test 1",
		Files: []snapshot.HostFile{{Source: data, Target: "/data"}, {Source: "/bin/sh"}},
	}, data
}

func TestHost(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		tree, data := smallTree(t)
		got, err := b.Host(t.Context(), tree)
		if err != nil {
			t.Fatal(err)
		}
		if got.Kind != "host" || got.Ref != "test 1" || got.Digest == "" {
			t.Errorf("got %+v", got)
		}
		if !b.held(t, got.Snapshot) {
			t.Fatal("base was collected")
		}
		b.view(t, got.Snapshot, func(dir string) {
			if content, err := os.ReadFile(dir + "/data"); err != nil || string(content) != "one" {
				t.Errorf("data holds %q, %v", content, err)
			}
		})
		start := time.Now()
		again, err := b.Host(t.Context(), tree)
		t.Logf("hit in %s", time.Since(start))
		if diff := cmp.Diff(got, again); err != nil || diff != "" {
			t.Errorf("second time: %v (-first +second):\n%s", err, diff)
		}
		if holds := b.leases(t, "base"); len(holds) != 1 {
			t.Errorf("%d leases after two uses, want 1", len(holds))
		}

		if err := os.WriteFile(data, []byte("two"), 0o644); err != nil {
			t.Fatal(err)
		}
		changed, err := b.Host(t.Context(), tree)
		if err != nil || changed.Snapshot == got.Snapshot || changed.Digest == got.Digest {
			t.Errorf("after a change: %+v, %v", changed, err)
		}
	})
}

// TestHostTogether makes one base from many calls.
func TestHostTogether(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		tree, _ := smallTree(t)
		var wg sync.WaitGroup
		bases := make([]snapshot.Base, 8)
		errs := make([]error, len(bases))
		for i := range bases {
			wg.Go(func() { bases[i], errs[i] = b.Host(t.Context(), tree) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for _, got := range bases {
			if diff := cmp.Diff(bases[0], got); diff != "" {
				t.Error(diff)
			}
		}
		if keys := b.snapshots(t); len(keys) != 1 {
			t.Errorf("snapshots %v, want one", keys)
		}
	})
}

// TestHostErrors leaves nothing, which newBench checks.
func TestHostErrors(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		tree, data := smallTree(t)
		missing := tree
		missing.Files = append(missing.Files, snapshot.HostFile{Source: data + "-gone"})
		_, err := b.Host(t.Context(), missing)
		wantError(t, err, errdefs.IsNotFound, data+"-gone")

		// An entry below a file cannot be made.
		bad := tree
		bad.Files = append(bad.Files, snapshot.HostFile{Source: data, Target: "/data/below"})
		_, err = b.Host(t.Context(), bad)
		wantError(t, err, func(error) bool { return true }, "/data")

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.Host(ctx, tree)
		wantError(t, err, func(err error) bool { return errors.Is(err, context.Canceled) })
		if keys := b.snapshots(t); len(keys) > 0 {
			t.Errorf("snapshots left: %v", keys)
		}
	})
}

// TestReconcile cleans up behind a process that died while it made a base.
func TestReconcile(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		tree, _ := smallTree(t)
		kept, err := b.Host(t.Context(), tree)
		if err != nil {
			t.Fatal(err)
		}
		manager := b.client.LeasesService()
		l, err := manager.Create(b.ctx, leases.WithRandomID(), leases.WithExpiration(time.Hour),
			leases.WithLabel("ctrsnap.io/kind", "base-work"))
		if err != nil {
			t.Fatal(err)
		}
		mounts, err := b.client.SnapshotService(snapshot.Snapshotter).Prepare(leases.WithLease(b.ctx, l.ID), "dead", "")
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(b.dir, "host-dead")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := mount.All(mounts, dir); err != nil {
			t.Fatal(err)
		}
		if err := b.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{kept.Snapshot}, b.snapshots(t)); diff != "" {
			t.Errorf("snapshots (-want +got):\n%s", diff)
		}
	})
}

// TestKeep lets a base go when its time is over.
func TestKeep(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		tree, _ := smallTree(t)
		short := base.New(b.client, base.Options{Dir: b.dir, Keep: time.Nanosecond})
		got, err := short.Host(t.Context(), tree)
		if err != nil && !errdefs.IsNotFound(err) { // so soon
			t.Fatal(err)
		}
		if b.held(t, got.Snapshot) {
			t.Error("base outlived its time")
		}
	})
}
