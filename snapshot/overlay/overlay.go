// Package overlay is the snapshotter: containerd's overlay package, with its
// metadata opened so that no write on the clone path waits for a disk.
//
// What that gives up on power loss is what package checkpoint keeps.
package overlay

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// MetadataFile is the name of the snapshotter's database below its root.
const MetadataFile = "metadata.db"

// Snapshotter is an overlayfs snapshotter that hands out its MetaStore.
type Snapshotter struct {
	snapshots.Snapshotter
	snapshots.Cleaner
	root     string
	metadata *storage.MetaStore
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// Options refine New. The zero value is what ctrsnap runs with.
type Options struct {
	// Sync waits for the disk at each metadata write.
	Sync bool
	// SyncRemove deletes files within Remove and not in Cleanup, which
	// containerd calls after a garbage collection.
	SyncRemove bool
	// MountOptions are added to each overlay mount.
	MountOptions []string
	// RemapIDs mounts layers idmapped for snapshots that ask for it by label.
	RemapIDs bool
}

// New returns a snapshotter that keeps layers and metadata below root. The
// caller must Close it.
func New(root string, o Options) (*Snapshotter, error) {
	ms, err := storage.NewMetaStore(filepath.Join(root, MetadataFile), func(b *bolt.Options) error {
		b.NoSync, b.NoGrowSync = !o.Sync, !o.Sync
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open metadata of snapshots in %s: %w", root, err)
	}
	sn, err := overlay.NewSnapshotter(root, o.overlay(ms)...)
	if err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", root, err)
	}
	cleaner, ok := sn.(snapshots.Cleaner)
	if !ok {
		return nil, fmt.Errorf("open snapshots in %s: snapshotter cannot clean up", root)
	}
	return &Snapshotter{Snapshotter: sn, Cleaner: cleaner, root: root, metadata: ms}, nil
}

// overlay translates to the options of containerd's package.
func (o Options) overlay(ms *storage.MetaStore) []overlay.Opt {
	opts := []overlay.Opt{overlay.WithMetaStore(ms)}
	if !o.SyncRemove {
		opts = append(opts, overlay.AsynchronousRemove)
	}
	if o.RemapIDs {
		opts = append(opts, overlay.WithRemapIDs)
	}
	if len(o.MountOptions) > 0 {
		opts = append(opts, overlay.WithMountOptions(o.MountOptions))
	}
	return opts
}

// MetaStore returns the snapshotter's database. It is closed by Close.
func (s *Snapshotter) MetaStore() *storage.MetaStore { return s.metadata }

// Recover deletes the files of snapshots that have no record, also where there is
// no record at all. It is to be called before anything else, when metadata is
// older than files: new snapshots take the numbers of lost ones.
func (s *Snapshotter) Recover(ctx context.Context) error {
	err := s.Cleanup(ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	dir := filepath.Join(s.root, "snapshots")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
