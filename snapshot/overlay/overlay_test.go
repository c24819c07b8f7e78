package overlay

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	_ "github.com/containerd/containerd/v2/pkg/testutil" // defines the flag -test.root of the suite
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// TestSuite holds the snapshotter to containerd's own suite, once per set of
// options.
func TestSuite(t *testing.T) {
	needRoot(t)
	for name, o := range map[string]Options{
		"default":      {},
		"sync":         {Sync: true},
		"sync-remove":  {SyncRemove: true},
		"stock":        {Sync: true, SyncRemove: true},
		"remap":        {RemapIDs: true},
		"mount-option": {MountOptions: []string{"metacopy=off"}},
	} {
		t.Run(name, func(t *testing.T) {
			testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
				sn, err := New(root, o)
				if err != nil {
					return nil, nil, err
				}
				return sn, sn.Close, nil
			})
		})
	}
}

// TestCleanup sees removed layers go with Cleanup, and only then.
func TestCleanup(t *testing.T) {
	needRoot(t)
	ctx, root := t.Context(), t.TempDir()
	sn, err := New(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	mounts, err := sn.Prepare(ctx, "a", "")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := UpperDir(mounts)
	if err != nil {
		t.Fatal(err)
	}
	if err := sn.Remove(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("removal was not left to Cleanup: %v", err)
	}
	if err := sn.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("stat %s after Cleanup: %v", dir, err)
	}
}

// TestRecover has layers whose metadata was lost altogether.
func TestRecover(t *testing.T) {
	needRoot(t)
	ctx, root := t.Context(), t.TempDir()
	sn, err := New(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	lost := filepath.Join(root, "snapshots", "1", "fs")
	if err := os.MkdirAll(lost, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := sn.Recover(ctx); err != nil {
		t.Fatal(err)
	}
	mounts, err := sn.Prepare(ctx, "a", "")
	if err != nil || mounts[0].Source != lost {
		t.Errorf("Prepare = %v, %v; want number 1 again", mounts, err)
	}
}

// TestVolatileMounts mounts a clone's layer: the kernel says that it is
// volatile, and refuses it a second time.
func TestVolatileMounts(t *testing.T) {
	needRoot(t)
	ctx := t.Context()
	sn, err := New(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sn.Close()
	if _, err := sn.Prepare(ctx, "base", ""); err != nil {
		t.Fatal(err)
	}
	if err := sn.Commit(ctx, "golden", "base"); err != nil {
		t.Fatal(err)
	}
	plain, err := sn.Prepare(ctx, "clone", "golden")
	if err != nil {
		t.Fatal(err)
	}
	target, volatile := t.TempDir(), Volatile(plain)
	if err := mount.All(volatile, target); err != nil {
		t.Fatal(err)
	}
	info, err := mount.Lookup(target)
	if err != nil {
		t.Error(err)
	}
	// Linux before 6.17 says "volatile", later ones "fsync=volatile".
	if !strings.Contains(info.VFSOptions, "volatile") {
		t.Errorf("mount options %q lack volatile", info.VFSOptions)
	}
	if err := mount.UnmountAll(target, 0); err != nil {
		t.Fatal(err)
	}
	if err := mount.All(volatile, target); err == nil {
		mount.UnmountAll(target, 0)
		t.Error("a volatile layer could be mounted twice")
	}
}

func TestVolatile(t *testing.T) {
	in := []mount.Mount{
		{Type: "bind", Source: "/a", Options: []string{"rw"}},
		{Type: "overlay", Options: []string{"upperdir=/u", "lowerdir=/l:/m"}},
		{Type: "overlay", Options: []string{"volatile"}},
	}
	want := []mount.Mount{
		in[0],
		{Type: "overlay", Options: []string{"upperdir=/u", "lowerdir=/l:/m", "volatile"}},
		in[2],
	}
	if diff := cmp.Diff(want, Volatile(in)); diff != "" {
		t.Error(diff)
	}
	if len(in[1].Options) != 2 {
		t.Error("Volatile changed what it was given")
	}
}

func TestForeign(t *testing.T) {
	in := []mount.Mount{
		{Type: "bind", Source: "/a", Options: []string{"rw", "nodev"}},
		{Type: "overlay", Options: []string{"lowerdir=/l:/m"}},
	}
	want := []mount.Mount{
		{Type: "bind", Source: "/a", Options: []string{"rw", "nodev", "nosuid"}},
		{Type: "overlay", Options: []string{"lowerdir=/l:/m", "nodev", "nosuid"}},
	}
	if diff := cmp.Diff(want, Foreign(in)); diff != "" {
		t.Error(diff)
	}
	if len(in[0].Options) != 2 || len(in[1].Options) != 1 {
		t.Error("Foreign changed what it was given")
	}
}

func TestUpperDir(t *testing.T) {
	for name, c := range map[string]struct {
		mounts []mount.Mount
		want   string
	}{
		"active":  {[]mount.Mount{{Type: "overlay", Options: []string{"workdir=/w", "upperdir=/u", "lowerdir=/l:/m"}}}, "/u"},
		"view":    {[]mount.Mount{{Type: "overlay", Options: []string{"lowerdir=/l:/m", "index=off"}}}, "/l"},
		"bind":    {[]mount.Mount{{Type: "bind", Source: "/b", Options: []string{"ro"}}}, "/b"},
		"nothing": {nil, ""},
		"other":   {[]mount.Mount{{Type: "tmpfs"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := UpperDir(c.mounts)
			if got != c.want || (err == nil) != (c.want != "") || (err != nil && !errdefs.IsNotFound(err)) {
				t.Errorf("UpperDir = %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}
