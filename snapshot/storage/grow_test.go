package storage

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestGrowOnline(t *testing.T) {
	opts := testOptions(t)
	s := mustOpen(t, opts)
	writeRandom(t, filepath.Join(s.Dir(), "f"), mib)
	before := mustInfo(t, s)
	if err := s.Grow(t.Context(), 1024*mib); err != nil {
		t.Fatal(err)
	}
	after := mustInfo(t, s)
	if after.ImageSize != 1024*mib || after.Size < before.Size+400*mib {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if err := s.Grow(t.Context(), 512*mib); !errdefs.IsInvalidArgument(err) {
		t.Errorf("shrink: %v", err)
	}
	// The new space can be filled.
	f, err := os.Create(filepath.Join(s.Dir(), "big"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, 600*mib), f.Close()); err != nil {
		t.Error(err)
	}
}

func TestOpenGrows(t *testing.T) {
	opts := testOptions(t)
	s := mustOpen(t, opts)
	size := mustInfo(t, s).Size
	bigger := func(what string) {
		t.Helper()
		i := mustInfo(t, mustOpen(t, opts))
		if i.Size < size+150*mib {
			t.Errorf("%s: %d bytes after %d", what, i.Size, size)
		}
		size = i.Size
	}
	opts.Size += 200 * mib
	bigger("mounted")
	if err := s.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	opts.Size += 200 * mib
	bigger("unmounted")
	// A crash right after the image was extended.
	opts.Size += 200 * mib
	if err := os.Truncate(opts.Image, opts.Size); err != nil {
		t.Fatal(err)
	}
	opts.Size = 0
	bigger("interrupted")
}

func TestFreedSpaceGoesBack(t *testing.T) {
	s := mustOpen(t, testOptions(t))
	empty := mustInfo(t, s).ImageUsed
	path := filepath.Join(s.Dir(), "f")
	writeRandom(t, path, 200*mib)
	if err := SyncFS(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if used := mustInfo(t, s).ImageUsed; used < empty+190*mib {
		t.Fatalf("image takes %d bytes after 200 MiB, %d before", used, empty)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// XFS frees the extents in the background and discards them once its log
	// has that, by itself within 30 s.
	for deadline := time.Now().Add(20 * time.Second); ; {
		if err := SyncFS(s.Dir()); err != nil {
			t.Fatal(err)
		}
		used := mustInfo(t, s).ImageUsed
		if used < empty+20*mib {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("image still takes %d bytes, %d when it was empty", used, empty)
		}
	}
}
