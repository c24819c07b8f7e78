package base

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Import returns the root filesystem of an image archive: what docker save
// writes, or an OCI image layout in a tar, either of them compressed or not.
// Name is for people. Progress, which may be nil, is called with the bytes read;
// total is 0 unless r is a file. r is read from the caller's goroutine until
// Import returns.
//
// Errors: InvalidArgument for what is not an archive of one image, with the
// images' names if there are several; FailedPrecondition for an image of another
// platform; ResourceExhausted; an error of r as it is.
func (m *Maker) Import(ctx context.Context, r io.Reader, name string, progress func(done, total int64)) (_ snapshot.Base, err error) {
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	ctx, end, err := m.work(ctx)
	if err != nil {
		return snapshot.Base{}, fmt.Errorf("import archive %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, end(err)) }()
	counted := &countingReader{r: r, report: progress, total: size(r)}
	base, err := m.importArchive(ctx, counted, name)
	if err != nil {
		return snapshot.Base{}, archiveError(ctx, name, counted.err, err)
	}
	return base, nil
}

// size returns the size of r if it is a regular file, or 0.
func size(r io.Reader) int64 {
	if f, ok := r.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			return info.Size()
		}
	}
	return 0
}

func (m *Maker) importArchive(ctx context.Context, r io.Reader, name string) (snapshot.Base, error) {
	plain, err := compression.DecompressStream(r)
	if err != nil {
		return snapshot.Base{}, err
	}
	defer plain.Close()
	lease, _ := leases.FromContext(ctx)
	store := &archiveStore{Store: m.client.ContentStore(), prefix: lease + "-"}
	index, err := imagearchive.ImportIndex(ctx, store, plain)
	if err != nil {
		return snapshot.Base{}, err
	}
	// What follows the tar counts as read, and a checksum at its end is checked.
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return snapshot.Base{}, err
	}
	target, err := choose(ctx, store, index)
	if err != nil {
		return snapshot.Base{}, err
	}
	if err := link(ctx, store, target); err != nil {
		return snapshot.Base{}, err
	}
	return m.finish(ctx, "archive", name, target)
}

// link makes the parts of an image hold each other, layers excepted: they are
// needed until they are unpacked only. It reads each part once, through store
// and so within its limits.
func link(ctx context.Context, store content.Store, target ocispec.Descriptor) error {
	here := platforms.Default()
	children := images.FilterPlatforms(images.ChildrenHandler(store), here)
	handler := images.SetChildrenMappedLabels(store, children, images.ChildGCLabelsFilterLayers)
	err := images.WalkNotEmpty(ctx, handler, target)
	if errors.Is(err, images.ErrEmptyWalk) {
		return wrongPlatform("other platforms")
	}
	if err != nil {
		return err
	}
	config, err := images.Config(ctx, store, target, here)
	if err != nil {
		return err
	}
	_, err = content.ReadBlob(ctx, store, config)
	return err
}
