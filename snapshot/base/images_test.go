package base_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

type contentInfo = content.Info

// makeImage returns an image with a layer per list of tar entries.
func makeImage(t *testing.T, arch string, layers ...[]tar.Header) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		OS: "linux", Architecture: arch,
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Env: []string{"A=b"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"},
			WorkingDir: "/w", User: "70", StopSignal: "SIGINT",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, headers := range layers {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(makeTar(t, headers))), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// makeTar writes entries; the content of a file is its own name.
func makeTar(t *testing.T, headers []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
}

func dockerArchive(t *testing.T, images map[name.Tag]v1.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tarball.MultiWrite(images, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func tag(t *testing.T, s string) name.Tag {
	t.Helper()
	tag, err := name.NewTag(s)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// ociArchive returns a tar of an OCI layout, each image with its platform.
func ociArchive(t *testing.T, images ...v1.Image) []byte {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if err := path.AppendImage(img, layout.WithPlatform(*config.Platform())); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compress(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// otherArch is an architecture that this host does not have.
func otherArch() string {
	if runtime.GOARCH == "s390x" {
		return "amd64"
	}
	return "s390x"
}

var wantConfig = snapshot.ImageConfig{
	Env: []string{"A=b"}, Entrypoint: []string{"/entry"}, Cmd: []string{"serve"},
	WorkingDir: "/w", User: "70", StopSignal: "SIGINT",
}

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

// startRegistry returns the address of a registry that wrap may stand before.
func startRegistry(t *testing.T, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if wrap != nil {
		h = wrap(h)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func push(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	if err := remote.Write(tag(t, ref), img); err != nil {
		t.Fatal(err)
	}
}

func TestPull(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		img := twoLayers(t, runtime.GOARCH)
		ref := startRegistry(t, nil) + "/team/shop"
		push(t, ref+":latest", img)
		var done, total int64
		got, err := b.Pull(t.Context(), ref, func(d, n int64) { done, total = d, n })
		if err != nil {
			t.Fatal(err)
		}
		b.checkBase(t, got, "image")
		want, _ := img.Digest()
		if got.Ref != ref+":latest" || got.Digest != want.String() {
			t.Errorf("got %s %s, want %s %s", got.Ref, got.Digest, ref, want)
		}
		if done == 0 || done != total {
			t.Errorf("progress ended at %d of %d", done, total)
		}
		again, err := b.Pull(t.Context(), ref, nil)
		if diff := cmp.Diff(got, again); err != nil || diff != "" {
			t.Errorf("second pull: %v (-first +second):\n%s", err, diff)
		}
		if holds := b.leases(t, "base"); len(holds) != 1 {
			t.Errorf("%d leases after two pulls, want 1", len(holds))
		}
	})
}

func TestPullIndex(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		index := mutate.AppendManifests(empty.Index,
			mutate.IndexAddendum{Add: twoLayers(t, otherArch()), Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "linux", Architecture: otherArch()},
			}},
			mutate.IndexAddendum{Add: twoLayers(t, runtime.GOARCH), Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
			}})
		ref := startRegistry(t, nil) + "/shop:1"
		if err := remote.WriteIndex(tag(t, ref), index); err != nil {
			t.Fatal(err)
		}
		got, err := b.Pull(t.Context(), ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.checkBase(t, got, "image")
	})
}

func TestPullErrors(t *testing.T) {
	each(t, func(t *testing.T, b bench) {
		here := startRegistry(t, nil)
		push(t, here+"/foreign:1", twoLayers(t, otherArch()))
		if err := remote.WriteIndex(tag(t, here+"/foreigners:1"), mutate.AppendManifests(empty.Index,
			mutate.IndexAddendum{Add: twoLayers(t, otherArch()), Descriptor: v1.Descriptor{
				Platform: &v1.Platform{OS: "linux", Architecture: otherArch()},
			}})); err != nil {
			t.Fatal(err)
		}
		answer := func(code int) string {
			return startRegistry(t, func(http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
			})
		}
		closed := httptest.NewServer(http.NotFoundHandler())
		closed.Close()
		for what, tt := range map[string]struct {
			ref   string
			class func(error) bool
		}{
			"no reference": {"Shop Image", errdefs.IsInvalidArgument},
			"not found":    {here + "/nothing:1", errdefs.IsNotFound},
			"other arch":   {here + "/foreign:1", errdefs.IsFailedPrecondition},
			"other archs":  {here + "/foreigners:1", errdefs.IsFailedPrecondition},
			"unauthorized": {answer(http.StatusUnauthorized) + "/shop:1", errdefs.IsPermissionDenied},
			"forbidden":    {answer(http.StatusForbidden) + "/shop:1", errdefs.IsPermissionDenied},
			"broken":       {answer(http.StatusInternalServerError) + "/shop:1", errdefs.IsUnavailable},
			"unreachable":  {strings.TrimPrefix(closed.URL, "http://") + "/shop:1", errdefs.IsUnavailable},
		} {
			t.Run(what, func(t *testing.T) {
				_, err := b.Pull(t.Context(), tt.ref, nil)
				t.Log(err)
				wantError(t, err, tt.class, "pull image")
				var h interface{ Hint() string }
				if !errors.As(err, &h) {
					t.Errorf("no hint in %v", err)
				}
			})
		}
	})
}
