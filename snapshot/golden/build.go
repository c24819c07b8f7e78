package golden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// build is a golden under construction. It is for one goroutine.
type build struct {
	store  *Store
	id     string
	key    string // of its snapshot: first active, then committed
	lease  leases.Lease
	mounts []mount.Mount
	upper  string
	// dir is upper, opened before anything is written there, so that syncfs
	// reports every write that failed since (syncfs(2)).
	dir    *os.File
	closed bool // committed, or given up
}

// Begin opens a golden build on top of the committed snapshot parent. A lease
// holds its snapshot; should the process die, Reconcile finds it by that.
func (s *Store) Begin(ctx context.Context, id, parent string) (snapshot.Build, error) {
	if err := snapshot.ValidateName(id); err != nil {
		return nil, fmt.Errorf("begin golden build: %w", err)
	}
	b := &build{store: s, id: id, key: buildKey(id)}
	if err := b.begin(namespaced(ctx), parent); err != nil {
		return nil, fmt.Errorf("begin golden build %s: %w", id, err)
	}
	return b, nil
}

// buildKey is the key of a build's active snapshot, and the id of its lease.
func buildKey(id string) string { return "ctrsnap/build/" + id }

func (b *build) begin(ctx context.Context, parent string) (err error) {
	labels := map[string]string{snapshot.LabelKind: snapshot.KindBuild}
	if err := b.store.opts.Failpoint("begin"); err != nil {
		return err
	}
	b.lease, err = b.store.leases.Create(ctx, leases.WithID(b.key), leases.WithLabels(labels))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close(ctx))
		}
	}()
	if err := b.store.opts.Failpoint("leased"); err != nil {
		return err
	}
	b.mounts, err = b.store.snapshots.Prepare(b.leased(ctx), b.key, parent, snapshots.WithLabels(labels))
	if err != nil {
		return err
	}
	b.mounts = overlay.Foreign(b.mounts)
	if b.upper, err = overlay.UpperDir(b.mounts); err != nil {
		return err
	}
	if b.dir, err = os.Open(b.upper); err != nil {
		return err
	}
	return b.store.opts.Failpoint("opened")
}

// leased has what is made with ctx held by the build's lease.
func (b *build) leased(ctx context.Context) context.Context {
	return leases.WithLease(namespaced(ctx), b.lease.ID)
}

// Mounts returns the mounts of the root filesystem under construction.
func (b *build) Mounts() []mount.Mount { return b.mounts }

// Commit syncs the layer, then commits the snapshot, records the golden, makes it
// current, and checkpoints.
func (b *build) Commit(ctx context.Context, g snapshot.Golden) (snapshot.Golden, error) {
	if b.closed {
		return g, fmt.Errorf("commit golden %s: build %s is closed: %w", g.Name, b.id, errdefs.ErrFailedPrecondition)
	}
	if err := b.seal(namespaced(ctx), &g); err != nil {
		return g, fmt.Errorf("commit golden %s: %w", g.Name, err)
	}
	if err := b.record(namespaced(ctx), &g); err != nil {
		return g, fmt.Errorf("commit golden %s: %w", g.Ref(), err)
	}
	b.closed = true
	g.Current = true
	return g, b.dir.Close()
}

// seal sees that the layer is whole and on disk, and measures it.
func (b *build) seal(ctx context.Context, g *snapshot.Golden) (err error) {
	if err := snapshot.ValidateName(g.Name); err != nil {
		return err
	}
	if err := b.unmounted(); err != nil {
		return err
	}
	if err := b.store.opts.Failpoint("sync"); err != nil {
		return err
	}
	if err := unix.Syncfs(int(b.dir.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", b.upper, err)
	}
	usage, err := b.store.snapshots.Usage(ctx, b.key)
	if err != nil {
		return err
	}
	g.Size = usage.Size
	if g.Created.IsZero() {
		g.Created = time.Now().UTC()
	}
	g.Digest, err = layerDigest(ctx, b.upper, &reader{})
	return err
}

// unmounted fails if the layer is still mounted for writing on this host.
func (b *build) unmounted() error {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("overlay"))
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if hasOption(m.VFSOptions, "upperdir="+b.upper) {
			return fmt.Errorf("its layer is still mounted at %s: %w", m.Mountpoint, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// record makes the layer a golden, in the order that a crash may cut anywhere:
// until its image record exists there is no golden; until the lease is gone,
// Reconcile takes it back. The lease goes before the checkpoint, so that no
// golden that Commit has confirmed is found with one.
func (b *build) record(ctx context.Context, g *snapshot.Golden) (err error) {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if err = s.next(ctx, g); err != nil {
		return err
	}
	g.Snapshot = fmt.Sprintf("ctrsnap/golden/%s/%d/%s", g.Name, g.Version, b.id)
	c := change{failpoint: s.opts.Failpoint}
	defer func() { err = c.end(ctx, err) }()

	if err := c.step(ctx, "snapshot", func(ctx context.Context) error { return b.commitSnapshot(ctx, *g) }); err != nil {
		return err
	}
	var target ocispec.Descriptor
	if err := c.step(ctx, "content", func(ctx context.Context) (err error) {
		target, err = s.records.write(b.leased(ctx), *g)
		return err
	}); err != nil {
		return err
	}
	point := func(ref snapshot.Ref) func(context.Context) error {
		return func(ctx context.Context) error {
			undo, err := s.records.set(ctx, recordName(ref), g.Name, target, g.Access)
			c.onFail(undo)
			return err
		}
	}
	if err := c.step(ctx, "record", point(g.Ref())); err != nil {
		return err
	}
	if err := c.step(ctx, "current", point(snapshot.Ref{Name: g.Name})); err != nil {
		return err
	}
	if err := c.step(ctx, "lease", func(ctx context.Context) error { return s.leases.Delete(ctx, b.lease) }); err != nil {
		return err
	}
	return c.step(ctx, "checkpoint", s.opts.Save)
}

// commitSnapshot turns the active snapshot into a committed one.
func (b *build) commitSnapshot(ctx context.Context, g snapshot.Golden) error {
	labels := snapshots.WithLabels(map[string]string{labelGolden: g.Ref().String()})
	if err := b.store.snapshots.Commit(b.leased(ctx), g.Snapshot, b.key, labels); err != nil {
		return err
	}
	b.key = g.Snapshot
	return nil
}

// next gives g one more than the highest version that is kept, and what those before have
// in common.
func (s *Store) next(ctx context.Context, g *snapshot.Golden) error {
	g.Version = 1
	if g.Access == (snapshot.Access{}) {
		g.Access = snapshot.DefaultAccess
	}
	kept, err := s.records.list(ctx, g.Name)
	if err == nil && len(kept) > 0 {
		last := kept[len(kept)-1]
		g.Version, g.Access = last.Version+1, last.Access
	}
	return err
}

// Close discards what was not committed.
func (b *build) Close(ctx context.Context) error {
	if b.closed {
		return nil
	}
	if b.dir != nil {
		b.dir.Close() // opened for reading: nothing to lose
	}
	ctx = namespaced(ctx)
	err := ignoreNotFound(b.store.snapshots.Remove(ctx, b.key))
	if derr := ignoreNotFound(b.store.leases.Delete(ctx, b.lease)); derr != nil {
		err = errors.Join(err, derr)
	}
	if err = errors.Join(err, b.store.collect(ctx)); err != nil {
		return fmt.Errorf("discard golden build %s: %w", b.id, err)
	}
	b.closed = true
	return nil
}

// hasOption says whether a comma-separated list of mount options holds option.
func hasOption(list, option string) bool {
	return slices.Contains(strings.Split(list, ","), option)
}
