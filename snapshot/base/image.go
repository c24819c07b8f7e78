package base

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// finish unpacks the image whose content is there and holds its snapshot. Of
// an image that is unpacked it only renews the hold.
func (m *Maker) finish(ctx context.Context, kind, ref string, target ocispec.Descriptor) (snapshot.Base, error) {
	img := containerd.NewImageWithPlatform(m.client, images.Image{Name: ref, Target: target}, platforms.Default())
	spec, err := img.Spec(ctx)
	if err != nil {
		return snapshot.Base{}, err
	}
	if err := runsHere(spec); err != nil {
		return snapshot.Base{}, err
	}
	if err := img.Unpack(ctx, snapshot.Snapshotter); err != nil {
		return snapshot.Base{}, fmt.Errorf("unpack: %w", err)
	}
	chain := identity.ChainID(spec.RootFS.DiffIDs).String()
	if err := m.checkLayers(ctx, chain); err != nil {
		return snapshot.Base{}, err
	}
	if err := m.hold(ctx, chain, snapshotResource(chain), contentResource(target.Digest)); err != nil {
		return snapshot.Base{}, err
	}
	return snapshot.Base{
		Kind:     kind,
		Ref:      ref,
		Digest:   target.Digest.String(),
		Snapshot: chain,
		Config:   config(spec.Config),
	}, nil
}

// checkLayers refuses layers with devices, FIFOs and sockets. containerd makes what a layer asks for, but nobody gets to see
// that before it has been looked at here.
func (m *Maker) checkLayers(ctx context.Context, chain string) (err error) {
	key := "ctrsnap/check/" + rand.Text()
	mounts, err := m.snapshots.View(ctx, key, chain)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.snapshots.Remove(context.WithoutCancel(ctx), key)) }()
	layers, err := overlay.Layers(mounts)
	if err != nil {
		return err
	}
	for _, layer := range layers {
		if err := checkLayer(ctx, layer); err != nil {
			return err
		}
	}
	return nil
}

func checkLayer(ctx context.Context, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // it was open for reading
	if err := foreign.Check(ctx, root); err != nil {
		return snapshot.WithHint(fmt.Errorf("check layer: %w", err),
			"an image may have files, directories and links only: remove the others where it is made")
	}
	return nil
}

// runsHere refuses what no process can be started in.
func runsHere(spec ocispec.Image) error {
	if len(spec.RootFS.DiffIDs) == 0 {
		return fmt.Errorf("image has no layers: %w", errdefs.ErrInvalidArgument)
	}
	if spec.Architecture != "" && !platforms.Default().Match(spec.Platform) {
		return wrongPlatform(platforms.Format(spec.Platform))
	}
	return nil
}

func wrongPlatform(has string) error {
	want := platforms.Format(platforms.DefaultSpec())
	return snapshot.WithHint(fmt.Errorf("image is for %s, this host is %s: %w", has, want, errdefs.ErrFailedPrecondition),
		"use an image that has a variant for "+want)
}

func config(c ocispec.ImageConfig) snapshot.ImageConfig {
	return snapshot.ImageConfig{
		Env:        c.Env,
		Entrypoint: c.Entrypoint,
		Cmd:        c.Cmd,
		WorkingDir: c.WorkingDir,
		User:       c.User,
		StopSignal: c.StopSignal,
	}
}

func containsAny(s string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(s, part) {
			return true
		}
	}
	return false
}
