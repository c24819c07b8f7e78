package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// overlayStore is the fake store with real mounts.
type overlayStore struct {
	fakeStore
	mounts []mount.Mount
}

type overlayBuild struct {
	snapshot.Build
	mounts []mount.Mount
}

func (s overlayStore) Begin(ctx context.Context, id, parent string) (snapshot.Build, error) {
	b, err := s.fakeStore.Begin(ctx, id, parent)
	return overlayBuild{b, s.mounts}, err
}

func (b overlayBuild) Mounts() []mount.Mount { return b.mounts }

// overlayWorld is a world whose Root mounts a real overlay.
func overlayWorld(t *testing.T) (w *world, upper string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	w = newWorld(t)
	base := t.TempDir()
	if err := syscall.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(base, 0); err != nil {
			t.Error(err)
		}
		if left := mountsBelow(t, w.RunDir); len(left) > 0 {
			t.Errorf("mounted: %v", left)
		}
	})
	for _, d := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "lower", "base"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	upper = filepath.Join(base, "upper")
	w.Store = overlayStore{fakeStore{w}, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + filepath.Join(base, "lower"), "upperdir=" + upper, "workdir=" + filepath.Join(base, "work"),
	}}}}
	w.mount, w.unmount = mount.All, mount.UnmountRecursive
	return w, upper
}

func TestRootMountsAndUnmounts(t *testing.T) {
	w, upper := overlayWorld(t)
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		for _, name := range []string{"one", "two"} {
			err = errors.Join(err, wb.Root(ctx, func(dir string) error {
				if fi, err := os.Stat(filepath.Dir(dir)); err != nil || fi.Mode().Perm() != 0o700 {
					t.Errorf("mount point is open to others: %v %v", fi, err)
				}
				_, err := os.Stat(filepath.Join(dir, "base"))
				return errors.Join(err, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
			}))
			if left := mountsBelow(t, w.RunDir); len(left) > 0 {
				t.Errorf("mounted after Root: %v", left)
			}
		}
		return b, err
	}
	if _, _, err := w.run(t.Context(), shop()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if _, err := os.Stat(filepath.Join(upper, name)); err != nil {
			t.Error(err)
		}
	}
	w.checkNothingLeft()
}

func TestRootUnmountsAfterFailure(t *testing.T) {
	w, upper := overlayWorld(t)
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		return b, wb.Root(ctx, func(dir string) error {
			return errors.Join(errBoom, os.WriteFile(filepath.Join(dir, "kept"), nil, 0o600))
		})
	}
	if _, _, err := w.run(t.Context(), shop()); !errors.Is(err, errBoom) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(upper, "kept")); err != nil {
		t.Error(err)
	}
	w.checkNothingLeft()
}

// A mount that is busy fails the build, since the next mount of the same upper
// directory would be undefined, but the undo frees it.
func TestRootBusy(t *testing.T) {
	w, _ := overlayWorld(t)
	var open *os.File
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		return b, wb.Root(ctx, func(dir string) (err error) {
			open, err = os.Open(filepath.Join(dir, "base"))
			return err
		})
	}
	_, _, err := w.run(t.Context(), shop())
	if !errors.Is(err, syscall.EBUSY) {
		t.Errorf("error %v", err)
	}
	w.checkNothingLeft()
	if err := open.Close(); err != nil {
		t.Error(err)
	}
}

func TestRootFailingMount(t *testing.T) {
	w, _ := overlayWorld(t)
	w.Store = overlayStore{fakeStore{w}, []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/none"}}}}
	w.engine = func(ctx context.Context, wb runtime.Workbench, _ runtime.Sources) (b runtime.Built, err error) {
		return b, wb.Root(ctx, func(string) error { t.Error("called"); return nil })
	}
	if _, _, err := w.run(t.Context(), shop()); err == nil {
		t.Error("no error")
	}
	w.checkNothingLeft()
}
