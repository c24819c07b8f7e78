// Package base makes the committed snapshots that golden builds start on: root
// filesystems of the host's own files, of images of a registry, and of image
// archives.
//
// Whatever is made is held by containerd leases alone, so that containerd's
// garbage collection cleans up behind every crash: a work lease while it is
// made, a lease that expires once it is there. No image record outlives a call.
package base

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/keylock"
)

// Labels of what this package leaves in containerd.
const (
	labelBase = "ctrsnap.io/base"
	// labelDigest is the content digest of a host base's snapshot.
	labelDigest = "ctrsnap.io/base.digest"

	kindBase = "base"
	kindWork = "base-work"
)

// undoTimeout bounds what is undone after an error or a cancellation.
const undoTimeout = time.Minute

// Options refine a Maker. The zero value works.
type Options struct {
	// Dir is where snapshots are mounted while they are filled. It is made
	// when needed; Reconcile clears it, so it must be the Maker's own. ""
	// means /run/ctrsnap/base.
	Dir string
	// Keep is how long a base that nothing was built on stays after its last
	// use; 0 means 24 hours.
	Keep time.Duration
	// RegistryDir has a hosts.toml per registry, as containerd's config_path
	// (/etc/containerd/certs.d), or is "".
	RegistryDir string
	Logger      *slog.Logger // nil means slog.Default()
}

// Maker makes bases. It is safe for concurrent use; of concurrent calls for
// the same base one does the work and the others wait for it.
type Maker struct {
	client    *containerd.Client
	snapshots snapshots.Snapshotter
	opts      Options
	log       *slog.Logger
	locks     keylock.Locks
}

// New returns a Maker that stores with client, in [snapshot.Namespace] and
// [snapshot.Snapshotter].
func New(client *containerd.Client, o Options) *Maker {
	if o.Dir == "" {
		o.Dir = "/run/ctrsnap/base"
	}
	if o.Keep == 0 {
		o.Keep = 24 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Maker{
		client:    client,
		snapshots: client.SnapshotService(snapshot.Snapshotter),
		opts:      o,
		log:       o.Logger,
	}
}

// Reconcile removes what an earlier process left behind when it died while it
// made bases. Call it once, before the other methods.
func (m *Maker) Reconcile(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	if err := errors.Join(m.clearDir(), m.removeRecords(ctx), m.removeWork(ctx)); err != nil {
		return fmt.Errorf("clean up unfinished bases: %w", err)
	}
	return nil
}

func (m *Maker) clearDir() error {
	entries, err := os.ReadDir(m.opts.Dir)
	if os.IsNotExist(err) {
		return nil
	}
	for _, e := range entries {
		dir := filepath.Join(m.opts.Dir, e.Name())
		// Remove, never RemoveAll: below a mount that stayed are a snapshot's files.
		err = errors.Join(err, mount.UnmountAll(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW), os.Remove(dir))
	}
	return err
}

func (m *Maker) removeRecords(ctx context.Context) error {
	store := m.client.ImageService()
	records, err := store.List(ctx, fmt.Sprintf("labels.%q==%q", snapshot.LabelKind, kindBase))
	for _, r := range records {
		if derr := store.Delete(ctx, r.Name); !errdefs.IsNotFound(derr) {
			err = errors.Join(err, derr)
		}
	}
	return err
}

func (m *Maker) removeWork(ctx context.Context) error {
	manager := m.client.LeasesService()
	works, err := manager.List(ctx, fmt.Sprintf("labels.%q==%q", snapshot.LabelKind, kindWork))
	for _, l := range works {
		if derr := manager.Delete(ctx, l, leases.SynchronousDelete); !errdefs.IsNotFound(derr) {
			err = errors.Join(err, derr)
		}
	}
	return err
}
