package golden

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Media types of a golden's record.
const (
	mediaTypeManifest = "application/vnd.ctrsnap.golden.manifest.v1+json"
	mediaTypeConfig   = "application/vnd.ctrsnap.golden.config.v1+json"
)

// Labels by which containerd's garbage collector goes from the image record to
// the snapshot (containerd docs/garbage-collection.md).
const (
	labelRefConfig   = "containerd.io/gc.ref.content.config"
	labelRefSnapshot = "containerd.io/gc.ref.snapshot." + snapshot.Snapshotter
	labelRoot        = "containerd.io/gc.root"
)

// currentSuffix ends the name of the record that moves.
const currentSuffix = ":current"

// recordName returns the name of ref's image record.
func recordName(ref snapshot.Ref) string {
	if ref.Version == 0 {
		return ref.Name + currentSuffix
	}
	return ref.String()
}

// records are the image records of goldens, and what they point to.
type records struct {
	images  images.Store
	content content.Store
	cache   sync.Map // digest of a manifest → snapshot.Golden, immutable
}

// image returns an image record that is a golden's. What else has that name is
// not found.
func (r *records) image(ctx context.Context, name string) (images.Image, error) {
	img, err := r.images.Get(ctx, name)
	if errdefs.IsNotFound(err) || err == nil && img.Labels[labelGolden] == "" {
		return images.Image{}, errdefs.ErrNotFound // the caller says of what, in words of ours
	}
	return img, err
}

// list returns the goldens called name, or all, sorted.
func (r *records) list(ctx context.Context, name string) ([]snapshot.Golden, error) {
	filter := fmt.Sprintf("labels.%q", labelGolden)
	if name != "" {
		filter += "==" + name
	}
	records, err := r.images.List(ctx, filter)
	if err != nil {
		return nil, err
	}
	current := map[string]images.Image{}
	for _, img := range records {
		if n, ok := strings.CutSuffix(img.Name, currentSuffix); ok {
			current[n] = img
		}
	}
	goldens := make([]snapshot.Golden, 0, len(records))
	for _, img := range records {
		if strings.HasSuffix(img.Name, currentSuffix) {
			continue
		}
		g, err := r.load(ctx, img)
		if err != nil {
			return nil, err
		}
		g.Current = current[g.Name].Target.Digest == img.Target.Digest
		g.Access, g.DamagedAt = accessOf(current[g.Name]), timeOf(img, labelDamaged)
		goldens = append(goldens, g)
	}
	slices.SortFunc(goldens, func(a, b snapshot.Golden) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	return goldens, nil
}

// load returns the golden that an image record stands for.
func (r *records) load(ctx context.Context, img images.Image) (snapshot.Golden, error) {
	if g, ok := r.cache.Load(img.Target.Digest); ok {
		return g.(snapshot.Golden), nil
	}
	var (
		m ocispec.Manifest
		g snapshot.Golden
	)
	if err := r.readJSON(ctx, img.Target, &m); err != nil {
		return g, fmt.Errorf("read manifest of %s: %w", img.Name, err)
	}
	if err := r.readJSON(ctx, m.Config, &g); err != nil {
		return g, fmt.Errorf("read description of %s: %w", img.Name, err)
	}
	r.cache.Store(img.Target.Digest, g)
	return g, nil
}

// complete reads what is not in a golden's description from its other record: img is the
// one that moves, or that of the version.
func (r *records) complete(ctx context.Context, g *snapshot.Golden, img images.Image, isCurrent bool) error {
	other := snapshot.Ref{Name: g.Name}
	if isCurrent {
		other = g.Ref()
	}
	found, err := r.image(ctx, recordName(other))
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	current, version := found, img
	if isCurrent {
		current, version = img, found
	}
	g.Current = err == nil && current.Target.Digest == version.Target.Digest
	g.Access, g.DamagedAt = accessOf(current), timeOf(version, labelDamaged)
	return nil
}

func (r *records) readJSON(ctx context.Context, desc ocispec.Descriptor, v any) error {
	b, err := content.ReadBlob(ctx, r.content, desc)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// write stores the description and the manifest of g and returns the target of
// its image record. The caller's lease holds them until there is one.
func (r *records) write(ctx context.Context, g snapshot.Golden) (ocispec.Descriptor, error) {
	config, err := r.writeJSON(ctx, mediaTypeConfig, g, map[string]string{labelRefSnapshot: g.Snapshot})
	if err != nil {
		return config, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: mediaTypeManifest,
		Config:    config,
		Layers:    []ocispec.Descriptor{},
	}
	return r.writeJSON(ctx, mediaTypeManifest, m, map[string]string{labelRefConfig: config.Digest.String()})
}

func (r *records) writeJSON(ctx context.Context, mediaType string, v any, labels map[string]string) (ocispec.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	ref := "ctrsnap-" + desc.Digest.String()
	return desc, content.WriteBlob(ctx, r.content, ref, bytes.NewReader(b), desc, content.WithLabels(labels))
}

// set makes the image record name point at target and returns how to undo
// that. A moving record that is new has access.
func (r *records) set(ctx context.Context, name, golden string, target ocispec.Descriptor, access snapshot.Access) (func(context.Context) error, error) {
	img := images.Image{Name: name, Target: target, Labels: map[string]string{labelGolden: golden}}
	if name == golden+currentSuffix {
		img.Labels[labelAccess] = access.String()
	}
	_, err := r.images.Create(ctx, img)
	if err == nil {
		return func(ctx context.Context) error { return r.images.Delete(ctx, name) }, nil
	}
	if !errdefs.IsAlreadyExists(err) || name != golden+currentSuffix {
		return nil, err
	}
	old, err := r.image(ctx, name)
	if err != nil {
		return nil, err
	}
	_, err = r.images.Update(ctx, img, "target")
	return func(ctx context.Context) error {
		_, err := r.images.Update(ctx, old, "target")
		return err
	}, err
}

// delete deletes the image record name and returns how to undo that.
func (r *records) delete(ctx context.Context, name string) (func(context.Context) error, error) {
	old, err := r.image(ctx, name)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := r.images.Create(ctx, images.Image{Name: old.Name, Target: old.Target, Labels: old.Labels})
		return err
	}, r.images.Delete(ctx, name)
}
