// Package storage keeps the filesystem that holds snapshots: one whose files
// can share extents (reflink), so that overlayfs copies a golden's file up
// into a clone by reference and not byte by byte.
//
// A directory that lies on such a filesystem already is used as it is. Else
// the package makes a sparse XFS image, mounts it through a loop device and
// grows it online. DESIGN.md has the invariants and the crash story.
package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Options says where the storage is and what may be done to get it.
type Options struct {
	// Dir is where snapshots live: a mount point if an image is needed. It is
	// made if it does not exist.
	Dir string
	// Image is the path of the loop image, used only where Dir's own
	// filesystem cannot reflink.
	Image string
	// Size of the image in bytes; 0 chooses one from the free space of the
	// filesystem that holds it. An image that is smaller is grown, one that is
	// larger stays as it is.
	Size int64
	// AllowPlain lets Dir be used without reflinks where no image can be made
	// (no mkfs.xfs, no loop devices, no XFS in the kernel) or where Dir holds
	// data from such a time. Info then has a Warning. It never hides an image
	// that exists.
	AllowPlain bool
	// Mkfs is the path of mkfs.xfs; "" looks in PATH and the sbin directories.
	Mkfs string

	// Failpoint, if set, is called before each step of Open; tests fail or
	// die there.
	Failpoint func(step string) error
}

// Storage is an open storage. It holds no resources of the process, so there
// is nothing to close: the mount outlives the process, because clones do. Its
// methods are safe for concurrent use.
type Storage struct {
	dir     string // absolute, without symbolic links
	image   string // "" if dir lies on a filesystem that is not ours
	reflink bool
	warning string
}

// Dir returns the directory that snapshots live in, without symbolic links.
func (s *Storage) Dir() string { return s.dir }

// Open makes the storage ready for use. It is idempotent: what an earlier
// process mounted is used again, and what one left half made is made anew. An
// error leaves no mount, loop device or temporary file behind.
//
// Errors: InvalidArgument for bad options, FailedPrecondition where the host
// lacks something (with a hint), ResourceExhausted without space for an image,
// Unavailable while another process opens the same storage.
func Open(ctx context.Context, opts Options) (*Storage, error) {
	if opts.Size < 0 || (opts.Size > 0 && opts.Size < MinSize) {
		return nil, fmt.Errorf("open storage: size %d is under %d bytes: %w", opts.Size, MinSize, errdefs.ErrInvalidArgument)
	}
	s, err := open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", opts.Dir, err)
	}
	return s, nil
}

func open(ctx context.Context, opts Options) (*Storage, error) {
	if err := releaseStopped(ctx, opts); err != nil {
		return nil, err
	}
	dir, err := makeDir(opts.Dir)
	if err != nil {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	m, err := mountAt(dir)
	if err != nil {
		return nil, err
	}
	imageExists := exists(opts.Image)
	switch {
	case m != nil && imageExists && backs(m.Source, opts.Image):
		return adopt(ctx, dir, opts)
	case m == nil && imageExists:
		return openImage(ctx, dir, opts)
	}

	reflink, err := probe(dir)
	if err != nil {
		return nil, err
	}
	if reflink || m != nil {
		return asIs(dir, reflink, opts, imageExists), nil
	}
	return newImage(ctx, dir, opts)
}

// At uses a directory, which it makes if needed, on whatever filesystem it lies
// on: nothing is mounted, and Unmount does nothing.
func At(dir string) (*Storage, error) {
	dir, err := makeDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open storage %s: %w", dir, err)
	}
	reflink, err := probe(dir)
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	return asIs(dir, reflink, Options{}, false), nil
}

// makeDir makes the storage's directory and returns its real path, the one that
// the kernel's list of mounts has.
func makeDir(dir string) (string, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("not an absolute path: %w", errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(dir)
}

// lock keeps a second process from making or mounting the same image. It sits
// on the parent of dir, because a mount changes what dir is.
func lock(dir string) (unlock func(), _ error) {
	f, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another process opens a storage in %s: %w", f.Name(), errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { _ = f.Close() }, nil
}

// asIs uses a directory on a filesystem that somebody else provides.
func asIs(dir string, reflink bool, opts Options, imageExists bool) *Storage {
	s := &Storage{dir: dir, reflink: reflink}
	switch {
	case imageExists:
		s.warning = fmt.Sprintf("%s exists but is not in use, because another filesystem is mounted at %s", opts.Image, dir)
	case !reflink:
		s.warning = "the filesystem at " + dir + " cannot share extents between files"
	}
	return s
}

// adopt takes over the mount of an earlier process, which may have been of a release that mounted with fewer flags.
func adopt(ctx context.Context, dir string, opts Options) (*Storage, error) {
	s := &Storage{dir: dir, image: opts.Image, reflink: true}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|mountFlags, ""); err != nil {
		return nil, fmt.Errorf("set flags of mount %s: %w", dir, err)
	}
	if err := s.growTo(ctx, opts.Size, opts.step); err != nil {
		return nil, err
	}
	return s, nil
}

// newImage makes an image and mounts it, or falls back to the plain directory.
// It never mounts over files: they would be a golden's.
func newImage(ctx context.Context, dir string, opts Options) (*Storage, error) {
	empty, err := isEmpty(dir)
	if err != nil {
		return nil, err
	}
	if !empty {
		return plain(dir, opts, snapshot.WithHint(
			fmt.Errorf("the directory holds files, and its filesystem cannot share extents: %w", errdefs.ErrFailedPrecondition),
			"move the files away to get a storage with reflinks"))
	}
	if err := makeImage(ctx, opts); err != nil {
		return plain(dir, opts, err)
	}
	s, err := openImage(ctx, dir, opts)
	if err == nil {
		return s, nil
	}
	// Nobody has used it, and without it the directory can still serve.
	if rmErr := os.Remove(opts.Image); rmErr != nil {
		return nil, errors.Join(err, rmErr)
	}
	return plain(dir, opts, err)
}

// plain uses dir without reflinks because of cause, if that is allowed and
// cause is something that the host lacks and not an accident.
func plain(dir string, opts Options, cause error) (*Storage, error) {
	if !opts.AllowPlain || !errdefs.IsFailedPrecondition(cause) {
		return nil, cause
	}
	return &Storage{dir: dir, warning: cause.Error() + hintOf(cause)}, nil
}

func hintOf(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return "; " + h.Hint()
	}
	return ""
}

func exists(path string) bool {
	if path == "" {
		return false
	}
	_, err := os.Lstat(path)
	return err == nil
}

func isEmpty(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	return len(entries) == 0, err
}

func (o Options) step(name string) error {
	if o.Failpoint == nil {
		return nil
	}
	return o.Failpoint(name)
}
