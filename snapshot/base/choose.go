package base

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// choose returns the one image of an archive's index. Several names of one
// image are fine, and so are variants of one image for several platforms.
func choose(ctx context.Context, store content.Provider, index ocispec.Descriptor) (ocispec.Descriptor, error) {
	b, err := content.ReadBlob(ctx, store, index)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var parsed ocispec.Index
	if err := json.Unmarshal(b, &parsed); err != nil {
		return ocispec.Descriptor{}, err
	}
	candidates := slices.DeleteFunc(parsed.Manifests, func(d ocispec.Descriptor) bool {
		return !isImage(d)
	})
	digests, names, variants := map[digest.Digest]bool{}, map[string]bool{}, map[string]bool{}
	for _, d := range candidates {
		digests[d.Digest] = true
		names[imageName(d)] = true
		if d.Platform != nil {
			variants[platforms.FormatAll(*d.Platform)] = true
		}
	}
	switch {
	case len(candidates) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("no image in its index: %w", errdefs.ErrInvalidArgument)
	case len(digests) == 1:
		return candidates[0], nil
	case len(names) == 1 && len(variants) == len(candidates):
		return index, nil
	}
	return ocispec.Descriptor{}, snapshot.WithHint(
		fmt.Errorf("holds several images: %s: %w", strings.Join(list(candidates), ", "), errdefs.ErrInvalidArgument),
		"save one image to an archive: docker save IMAGE")
}

// isImage says whether d is an image, rather than a signature or attestation.
func isImage(d ocispec.Descriptor) bool {
	if d.Platform != nil && d.Platform.OS == "unknown" {
		return false
	}
	isArtifact := d.ArtifactType != "" && !images.IsConfigType(d.ArtifactType)
	return !isArtifact && d.Annotations[images.AnnotationManifestSubject] == "" &&
		(images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType))
}

// imageName returns the name that an archive gives an image, or "".
func imageName(d ocispec.Descriptor) string {
	if name := d.Annotations[images.AnnotationImageName]; name != "" {
		return name
	}
	return d.Annotations[ocispec.AnnotationRefName]
}

// list names images for people, the first few of them.
func list(descriptors []ocispec.Descriptor) []string {
	const most = 10
	var names []string
	for i, d := range descriptors {
		if i == most {
			return append(names, "…")
		}
		name := imageName(d)
		if name == "" {
			name = d.Digest.String()
		}
		names = append(names, name)
	}
	return names
}
