package base_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// checkBase looks at the snapshot of an image made of layers "one" and "two".
func (b bench) checkBase(t *testing.T, got snapshot.Base, kind string) {
	t.Helper()
	if got.Kind != kind || got.Digest == "" {
		t.Errorf("got %+v", got)
	}
	if diff := cmp.Diff(wantConfig, got.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if !b.held(t, got.Snapshot) {
		t.Fatalf("%s was collected", got.Snapshot)
	}
	b.view(t, got.Snapshot, func(dir string) {
		for _, name := range []string{"one", "two"} {
			if content, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(content) != name {
				t.Errorf("%s holds %q, %v", name, content, err)
			}
		}
	})
}

func twoLayers(t *testing.T, arch string) v1.Image {
	return makeImage(t, arch, []tar.Header{file("one")}, []tar.Header{file("two")})
}

func TestImport(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		img := twoLayers(t, runtime.GOARCH)
		docker := dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): img})
		for what, archive := range map[string][]byte{
			"docker":            docker,
			"docker gzip":       compress(t, docker),
			"docker two tags":   dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): img, tag(t, "shop:2"): img}),
			"oci":               ociArchive(t, img),
			"oci two platforms": ociArchive(t, twoLayers(t, otherArch()), img),
		} {
			t.Run(what, func(t *testing.T) {
				var done int64
				got, err := b.Import(t.Context(), bytes.NewReader(archive), "x.tar", func(n, _ int64) { done = n })
				if err != nil {
					t.Fatal(err)
				}
				b.checkBase(t, got, "archive")
				if done != int64(len(archive)) {
					t.Errorf("progress ended at %d of %d bytes", done, len(archive))
				}
			})
		}
	})
}

// TestImportBad leaves nothing, which newBench checks.
func TestImportBad(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		img := twoLayers(t, runtime.GOARCH)
		docker := dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): img})
		oci := ociArchive(t, img)
		packed := compress(t, docker)
		for what, tt := range map[string]struct {
			archive []byte
			class   func(error) bool
			parts   []string
		}{
			"empty":       {nil, errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"text":        {[]byte(strings.Repeat("hello, world\n", 100)), errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"other tar":   {makeTar(t, []tar.Header{file("a"), file("b")}), errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"cut":         {docker[:len(docker)/2], errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"cut oci":     {oci[:len(oci)/2], errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"cut gzip":    {packed[:len(packed)/2], errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"cut at end":  {packed[:len(packed)-4], errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
			"other arch":  {ociArchive(t, twoLayers(t, otherArch())), errdefs.IsFailedPrecondition, []string{otherArch(), runtime.GOARCH}},
			"other archs": {ociArchive(t, twoLayers(t, otherArch()), twoLayers(t, "riscv64")), errdefs.IsFailedPrecondition, []string{runtime.GOARCH}},
			"several": {
				dockerArchive(t, map[name.Tag]v1.Image{
					tag(t, "shop:1"): img,
					tag(t, "shop:2"): makeImage(t, runtime.GOARCH, []tar.Header{file("three")}),
				}),
				errdefs.IsInvalidArgument,
				[]string{"x.tar", "several images", "docker.io/library/shop:1", "docker.io/library/shop:2"},
			},
			"no layers":     {dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): makeImage(t, runtime.GOARCH)}), errdefs.IsInvalidArgument, []string{"no layers"}},
			"damaged layer": {damaged(t), errdefs.IsInvalidArgument, []string{"archive x.tar is not an image"}},
		} {
			t.Run(what, func(t *testing.T) {
				_, err := b.Import(t.Context(), bytes.NewReader(tt.archive), "x.tar", nil)
				t.Log(err)
				wantError(t, err, tt.class, tt.parts...)
			})
		}
	})
}

// damaged returns an archive whose layer is no tar.
func damaged(t *testing.T) []byte {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(strings.Repeat("not a tar", 1000))), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(makeImage(t, runtime.GOARCH), layer)
	if err != nil {
		t.Fatal(err)
	}
	return dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): img})
}

// TestImportReader keeps the error of whoever sends the archive.
func TestImportReader(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		gone := errors.New("peer is gone")
		archive := dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): twoLayers(t, runtime.GOARCH)})
		r := io.MultiReader(bytes.NewReader(archive[:len(archive)/2]), iotest.ErrReader(gone))
		_, err := b.Import(t.Context(), r, "x.tar", nil)
		wantError(t, err, func(err error) bool { return errors.Is(err, gone) && !errdefs.IsInvalidArgument(err) })
	})
}

// TestImportSpecial refuses an image with what is neither file, directory nor link, in any of its layers, by its name.
func TestImportSpecial(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		for kind, hdr := range map[string]tar.Header{
			"block device":     {Name: "srv/disk", Typeflag: tar.TypeBlock, Mode: 0o666, Devmajor: 7, Devminor: 3},
			"character device": {Name: "srv/zero", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 5},
			"FIFO":             {Name: "srv/fifo", Typeflag: tar.TypeFifo, Mode: 0o666},
		} {
			for where, layers := range map[string][][]tar.Header{
				"only layer":   {{file("one"), hdr}},
				"lowest layer": {{hdr}, {file("two")}, {file("three")}},
				"top layer":    {{file("one")}, {file("two"), hdr}},
			} {
				archive := dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): makeImage(t, runtime.GOARCH, layers...)})
				for range 2 { // the layers that the first has unpacked are no way around it
					_, err := b.Import(t.Context(), bytes.NewReader(archive), "x.tar", nil)
					wantError(t, err, errdefs.IsInvalidArgument, "x.tar", hdr.Name+" is a "+kind)
					if err != nil && strings.Contains(err.Error(), "is not an image") {
						t.Errorf("%s in the %s: misleading: %v", kind, where, err)
					}
				}
			}
		}
	})
}

// TestImportLinks unpacks links to files of the host, which are to lead to those of the image.
func TestImportLinks(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		secret := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(secret, []byte("of the host"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{secret, strings.Repeat("../", 20) + secret[1:]} {
			img := makeImage(t, runtime.GOARCH, []tar.Header{file("one"), {Name: "hard", Typeflag: tar.TypeLink, Linkname: target}}, []tar.Header{file("two")})
			archive := dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): img})
			if got, err := b.Import(t.Context(), bytes.NewReader(archive), "x.tar", nil); err == nil {
				b.checkBase(t, got, "archive")
			}
			if info, err := os.Stat(secret); err != nil || info.Sys().(*syscall.Stat_t).Nlink != 1 {
				t.Errorf("hard link to %s: %v, %v", target, info, err)
			}
		}
	})
}

// TestImportHostile unpacks layers that try to write outside of their root.
func TestImportHostile(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		outside := t.TempDir()
		up := strings.Repeat("../", 20) + outside[1:]
		img := makeImage(t, runtime.GOARCH,
			[]tar.Header{
				file("one"), file(up + "/dotdot"),
				{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: outside},
				{Name: "rel", Typeflag: tar.TypeSymlink, Linkname: up},
			},
			[]tar.Header{file("two"), file("abs/through-abs"), file("rel/through-rel"), file(outside + "/absolute")},
		)
		archive := dockerArchive(t, map[name.Tag]v1.Image{tag(t, "shop:1"): img})
		got, err := b.Import(t.Context(), bytes.NewReader(archive), "x.tar", nil)
		if err == nil { // refusing it would do as well
			b.checkBase(t, got, "archive")
		}
		if entries, _ := os.ReadDir(outside); len(entries) > 0 {
			t.Errorf("written outside of the root: %v", entries)
		}
	})
}
