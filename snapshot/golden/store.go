// Package golden is the Store: goldens and the snapshots of clones, kept by a
// containerd that is embedded or that the host runs.
//
// A golden is a containerd image record "shop:3" whose target is a manifest in
// the content store. By labels for the garbage collector the manifest holds the
// golden's description, and that the committed snapshot. "shop:current" is a
// second record with the target of one of them. Names of goldens hold no slash,
// unlike those of images that were pulled, and every record is labelled.
package golden

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Labels on what the Store makes.
const (
	labelGolden = "ctrsnap.io/golden" // name on image records, "shop:3" on snapshots
	kindRemoval = "removal"
)

// Options refine New.
type Options struct {
	// Save makes metadata written so far survive power loss: a checkpoint. nil
	// if containerd syncs its metadata itself.
	Save func(context.Context) error
	// Exclusive returns how many bytes of disk the files below path hold alone.
	// nil means that all of their blocks count.
	Exclusive func(ctx context.Context, path string) (int64, error)

	// Marked is told of each golden that was found to be damaged, or sound again. It is
	// called under the Store's lock and must not change goldens. nil tells nobody.
	Marked func(context.Context, snapshot.Golden)

	// Failpoint is called before each step of a change; tests make it fail.
	Failpoint func(step string) error
}

// Store implements [snapshot.Store].
//
// Lock order: mu, then the golden's lock, then containerd's own.
type Store struct {
	opts      Options
	client    *client.Client
	records   *records
	leases    leases.Manager
	snapshots snapshots.Snapshotter

	mu    sync.Mutex // serialises changes of goldens; clones never take it
	locks sync.Map   // ref → *sync.RWMutex: held shared by Prepare, alone by RemoveGolden
}

var _ snapshot.Store = (*Store)(nil)

// New returns a Store on c. One process at a time may use it to change goldens.
func New(c *client.Client, o Options) *Store {
	if o.Save == nil {
		o.Save = func(context.Context) error { return nil }
	}
	if o.Failpoint == nil {
		o.Failpoint = func(string) error { return nil }
	}
	if o.Marked == nil {
		o.Marked = func(context.Context, snapshot.Golden) {}
	}
	return &Store{
		opts: o, client: c,
		records: &records{images: c.ImageService(), content: c.ContentStore()}, leases: c.LeasesService(),
		snapshots: c.SnapshotService(snapshot.Snapshotter),
	}
}

// Golden returns one golden; a Ref with version 0 means the current one.
func (s *Store) Golden(ctx context.Context, ref snapshot.Ref) (snapshot.Golden, error) {
	ctx = namespaced(ctx)
	img, err := s.records.image(ctx, recordName(ref))
	if err != nil {
		return snapshot.Golden{}, fmt.Errorf("golden %s: %w", ref, notFound(err))
	}
	g, err := s.records.load(ctx, img)
	if err != nil {
		return snapshot.Golden{}, fmt.Errorf("get golden %s: %w", ref, err)
	}
	if err := s.records.complete(ctx, &g, img, ref.Version == 0); err != nil {
		return snapshot.Golden{}, fmt.Errorf("get golden %s: %w", ref, err)
	}
	return g, nil
}

// Goldens returns all goldens, by name, then version ascending.
func (s *Store) Goldens(ctx context.Context) ([]snapshot.Golden, error) {
	all, err := s.records.list(namespaced(ctx), "")
	if err != nil {
		return nil, fmt.Errorf("list goldens: %w", err)
	}
	return all, nil
}

// lock returns the lock of one golden.
func (s *Store) lock(ref snapshot.Ref) *sync.RWMutex {
	l, _ := s.locks.LoadOrStore(ref.String(), new(sync.RWMutex))
	return l.(*sync.RWMutex)
}

// notFound adds the hint that every unknown golden deserves.
func notFound(err error) error {
	if errdefs.IsNotFound(err) {
		return snapshot.WithHint(err, snapshot.GoldenHint)
	}
	return err
}

// namespaced puts our containerd namespace on ctx.
func namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, snapshot.Namespace)
}
