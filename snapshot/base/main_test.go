package base_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/moby/sys/mountinfo"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/base"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
)

// clients are the ways to the one containerd that a process can have.
var clients map[string]*client.Client

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "base")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	embedded, err := containerd.Start(ctx, containerd.Options{
		Root: dir + "/root", State: dir + "/state", Address: dir + "/c.sock", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer embedded.Stop(ctx)
	remote, err := containerd.Connect(ctx, dir+"/c.sock")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remote.Stop(ctx)
	clients = map[string]*client.Client{"in process": embedded.Client(), "over the socket": remote.Client()}
	return m.Run()
}

// bench is a Maker with what a test needs to look at its work.
type bench struct {
	*base.Maker
	client *client.Client
	ctx    context.Context
	dir    string
}

// each runs test with each way to containerd.
func each(t *testing.T, test func(t *testing.T, b bench)) {
	t.Helper()
	if clients == nil {
		t.Skip("needs root")
	}
	for name, c := range clients {
		t.Run(name, func(t *testing.T) { test(t, newBench(t, c)) })
	}
}

// newBench starts without bases, and ends with a check that nothing is left.
func newBench(t *testing.T, c *client.Client) bench {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mounts")
	b := bench{
		Maker:  base.New(c, base.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)}),
		client: c, dir: dir,
		ctx: namespaces.WithNamespace(context.WithoutCancel(t.Context()), snapshot.Namespace),
	}
	t.Cleanup(func() {
		if works := b.leases(t, "base-work"); len(works) > 0 {
			t.Errorf("work leases left: %v", works)
		}
		b.clear(t)
		if keys := b.snapshots(t); len(keys) > 0 {
			t.Errorf("snapshots left that nothing holds: %v", keys)
		}
		if blobs := b.blobs(t); len(blobs) > 0 {
			t.Errorf("content left that nothing holds: %v", blobs)
		}
		if images, err := c.ImageService().List(b.ctx); err != nil || len(images) > 0 {
			t.Errorf("image records left: %v, %v", images, err)
		}
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil || len(mounts) > 0 {
			t.Errorf("mounts left: %v, %v", mounts, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("left in %s: %v", dir, entries)
		}
	})
	return b
}

// clear ends all holds and waits for the garbage collection.
func (b bench) clear(t *testing.T) {
	t.Helper()
	manager := b.client.LeasesService()
	all, err := manager.List(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if err := manager.Delete(b.ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	b.collect(t)
}

// collect waits for a garbage collection.
func (b bench) collect(t *testing.T) {
	t.Helper()
	manager := b.client.LeasesService()
	l, err := manager.Create(b.ctx, leases.WithRandomID())
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Delete(b.ctx, l, leases.SynchronousDelete); err != nil {
		t.Fatal(err)
	}
}

func (b bench) leases(t *testing.T, kind string) []leases.Lease {
	t.Helper()
	found, err := b.client.LeasesService().List(b.ctx, fmt.Sprintf("labels.%q==%q", "ctrsnap.io/kind", kind))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (b bench) snapshots(t *testing.T) []string {
	t.Helper()
	var keys []string
	err := b.client.SnapshotService(snapshot.Snapshotter).Walk(b.ctx, func(_ context.Context, i snapshots.Info) error {
		keys = append(keys, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func (b bench) blobs(t *testing.T) []string {
	t.Helper()
	var blobs []string
	err := b.client.ContentStore().Walk(b.ctx, func(i contentInfo) error {
		blobs = append(blobs, i.Digest.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	statuses, err := b.client.ContentStore().ListStatuses(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range statuses {
		blobs = append(blobs, "upload "+s.Ref)
	}
	return blobs
}

// view mounts a committed snapshot and calls fn with the directory.
func (b bench) view(t *testing.T, key string, fn func(dir string)) {
	t.Helper()
	ctx, done, err := b.client.WithLease(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer done(ctx)
	service := b.client.SnapshotService(snapshot.Snapshotter)
	mounts, err := service.View(ctx, "view", key)
	if err != nil {
		t.Fatal(err)
	}
	defer service.Remove(ctx, "view")
	err = mount.WithReadonlyTempMount(ctx, mounts, func(root string) error {
		fn(root)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// held says whether key survives a garbage collection.
func (b bench) held(t *testing.T, key string) bool {
	t.Helper()
	b.collect(t)
	return slices.Contains(b.snapshots(t), key)
}

func wantError(t *testing.T, err error, class func(error) bool, parts ...string) {
	t.Helper()
	if err == nil || !class(err) {
		t.Errorf("got %v, wrong class", err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("got %q, want %q in it", err, part)
		}
	}
}
