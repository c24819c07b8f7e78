package base

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument bounds the JSON documents of an image, which are read into
// memory. Registries refuse manifests above 4 MiB.
const maxDocument = 8 << 20

// archiveStore is a content store for one archive that is not trusted.
type archiveStore struct {
	content.Store
	// prefix keeps uploads of different archives apart: containerd would go
	// on with an upload of the same name where another one ended.
	prefix string
}

// Writer opens an upload.
func (s *archiveStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	return s.Store.Writer(ctx, append(opts, content.WithRef(s.prefix+o.Ref))...)
}

// ReaderAt refuses documents that are too long.
func (s *archiveStore) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := s.Store.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	isDocument := images.IsIndexType(desc.MediaType) || images.IsManifestType(desc.MediaType) || images.IsConfigType(desc.MediaType)
	if isDocument && ra.Size() > maxDocument {
		_ = ra.Close()
		return nil, fmt.Errorf("document %s of %d bytes: %w", desc.Digest, ra.Size(), errdefs.ErrInvalidArgument)
	}
	return ra, nil
}
