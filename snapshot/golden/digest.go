package golden

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// digest reads the layer of g, found by a view that lives as long as that takes.
func (s *Store) digest(ctx context.Context, g snapshot.Golden, r *reader) (_ string, err error) {
	l, err := s.leases.Create(ctx, leases.WithRandomID(), leases.WithLabels(map[string]string{snapshot.LabelKind: kindRemoval}))
	if err != nil {
		return "", err
	}
	key := "ctrsnap/verify/" + l.ID
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, ignoreNotFound(s.snapshots.Remove(ctx, key)), s.leases.Delete(ctx, l))
	}()
	mounts, err := s.snapshots.View(leases.WithLease(ctx, l.ID), key, g.Snapshot)
	if err != nil {
		return "", err
	}
	dir, err := overlay.UpperDir(mounts)
	if err != nil {
		return "", err
	}
	return layerDigest(ctx, dir, r)
}

// layerDigest returns a digest of the files below dir: names, types, modes,
// owners, device numbers, link targets, extended attributes, and sizes and
// content of regular files, but no times. Nobody may write there meanwhile.
func layerDigest(ctx context.Context, dir string, r *reader) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	h := sha256.New()
	// WalkDir goes through names in their order and follows no links.
	err = fs.WalkDir(foreign.FS(root), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return hashFile(ctx, h, r, root, name)
	})
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", dir, err)
	}
	return digest.NewDigest(digest.SHA256, h).String(), nil
}

// hashFile adds one file to h.
func hashFile(ctx context.Context, h hash.Hash, r *reader, root *os.Root, name string) error {
	at, err := foreign.Handle(root, name)
	if err != nil {
		return err
	}
	defer at.Close()
	info, err := at.Stat()
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	var rdev uint64
	if st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK {
		rdev = st.Rdev
	}
	fmt.Fprintf(h, "%q %o %d:%d %d\n", name, st.Mode, st.Uid, st.Gid, rdev)
	if err := hashXattrs(h, at); err != nil {
		return fmt.Errorf("extended attributes of %s: %w", name, err)
	}
	switch info.Mode().Type() {
	case 0:
		return hashContent(ctx, h, r, at)
	case fs.ModeSymlink:
		target, err := root.Readlink(name)
		fmt.Fprintf(h, "-> %q\n", target)
		return err
	}
	return nil
}

// hashContent adds size and bytes of a regular file.
func hashContent(ctx context.Context, h hash.Hash, r *reader, at *os.File) error {
	sum := sha256.New()
	n, err := r.read(ctx, sum, at)
	fmt.Fprintf(h, "%d %x\n", n, sum.Sum(nil))
	return err
}

// local are attributes of overlayfs that speak of this filesystem's inodes, not
// of the layer's content.
var local = []string{
	"trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.nlink",
	"trusted.overlay.upper", "trusted.overlay.uuid",
}

// hashXattrs adds the extended attributes of a file, sorted by name. The path of a handle leads to a link itself.
func hashXattrs(h hash.Hash, at *os.File) error {
	path := foreign.Path(at)
	list, err := xattr(func(buf []byte) (int, error) { return unix.Listxattr(path, buf) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	names := strings.Split(strings.TrimRight(string(list), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if slices.Contains(local, name) {
			continue
		}
		value, err := xattr(func(buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(h, "%q=%q\n", name, value)
	}
	return nil
}

// xattr calls get with nothing to learn the size, then with a buffer of it.
func xattr(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	n, err = get(buf)
	return bytes.Clone(buf[:max(n, 0)]), err
}
