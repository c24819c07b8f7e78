package base

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/transfer"
	"github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/containerd/v2/core/transfer/registry"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Pull returns the root filesystem of an image of a registry. ref is read as
// docker reads it: "postgres:17" is docker.io/library/postgres:17. A registry
// on localhost may speak plain HTTP. Progress, which may be nil, is called from
// one goroutine at a time and not after Pull has returned; done and total are
// bytes, and total grows while the image's parts become known.
//
// Errors: InvalidArgument for a ref that is none, NotFound, PermissionDenied,
// Unavailable for a registry that does not answer, FailedPrecondition for an
// image of another platform, ResourceExhausted.
func (m *Maker) Pull(ctx context.Context, ref string, progress func(done, total int64)) (snapshot.Base, error) {
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return snapshot.Base{}, snapshot.WithHint(
			fmt.Errorf("pull image %q: %w: %w", ref, err, errdefs.ErrInvalidArgument),
			"an image is written as in docker: postgres:17, registry.example.com/team/postgres:17")
	}
	unlock, err := m.locks.Lock(ctx, named.String())
	if err != nil {
		return snapshot.Base{}, err
	}
	defer unlock()
	base, err := m.pull(ctx, named.String(), progress)
	if err != nil {
		return snapshot.Base{}, fmt.Errorf("pull image %s: %w", named, pullError(ctx, err))
	}
	return base, nil
}

func (m *Maker) pull(ctx context.Context, ref string, progress func(done, total int64)) (_ snapshot.Base, err error) {
	ctx, end, err := m.work(ctx)
	if err != nil {
		return snapshot.Base{}, err
	}
	defer func() { err = errors.Join(err, end(err)) }()
	img, remove, err := m.transfer(ctx, ref, progress)
	if err != nil {
		return snapshot.Base{}, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	return m.finish(ctx, "image", ref, img.Target)
}

// transfer fetches and unpacks the image and returns its record, which serves
// no other end and which the caller must remove: the content is held by leases.
func (m *Maker) transfer(ctx context.Context, ref string, progress func(done, total int64)) (images.Image, func() error, error) {
	lease, _ := leases.FromContext(ctx)
	record := "ctrsnap/base/" + lease // nobody else uses it
	var opts []registry.Opt
	if m.opts.RegistryDir != "" {
		opts = append(opts, registry.WithHostDir(m.opts.RegistryDir))
	}
	src, err := registry.NewOCIRegistry(ctx, ref, opts...)
	if err != nil {
		return images.Image{}, nil, err
	}
	here := platforms.DefaultSpec()
	dst := image.NewStore(record,
		image.WithPlatforms(here),
		image.WithUnpack(here, snapshot.Snapshotter),
		image.WithImageLabels(map[string]string{snapshot.LabelKind: kindBase}))
	remove := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if err := m.client.ImageService().Delete(ctx, record); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	}
	meter := &meter{report: progress, parts: map[string]part{}}
	defer meter.close()
	err = m.client.TransferService().Transfer(ctx, src, dst, transfer.WithProgress(meter.update))
	if err != nil {
		return images.Image{}, nil, errors.Join(err, remove())
	}
	meter.finish()
	img, err := m.client.ImageService().Get(ctx, record)
	if err != nil {
		return images.Image{}, nil, errors.Join(err, remove())
	}
	return img, remove, nil
}
