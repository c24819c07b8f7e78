package base_test

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

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
