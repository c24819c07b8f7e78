package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// View shows a directory, that of the snapshots, as another user namespace's: what root has on
// disk is that of the root there. All snapshots are seen through one idmapped mount, which
// costs a clone nothing; the layers on disk stay as they are.
// See mount_setattr(2) and https://docs.kernel.org/filesystems/idmappings.html.
//
// The namespace has to map this process's root as well, to an id that no layer has: an
// overlay makes its temporary files as who mounted it.
type View struct{ root, at string }

// NewView mounts the directory root at at, in a directory that is to be nobody else's, by the
// ids of a user namespace. What an earlier process mounted there goes. The caller must Close it.
// The error says what the kernel or the filesystem lacks.
func NewView(root, at string, ns *os.File) (*View, error) {
	v := &View{root: root, at: at}
	err := v.Close()
	if err == nil {
		err = os.MkdirAll(v.at, 0o700)
	}
	if err == nil {
		err = os.Chmod(filepath.Dir(at), 0o700) // what is mounted has a mode of its own
	}
	if err != nil {
		return nil, fmt.Errorf("map layers: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("map layers: %w", &os.PathError{Op: "open_tree", Path: root, Err: err})
	}
	defer unix.Close(fd) //nolint:errcheck // the mount stays
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(ns.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr); err != nil {
		return nil, fmt.Errorf("map layers: %w", &os.PathError{Op: "mount_setattr", Path: root, Err: err})
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, v.at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("map layers: %w", &os.PathError{Op: "move_mount", Path: v.at, Err: err})
	}
	return v, nil
}

// Close unmounts the view. What was mounted through it stays. It is idempotent.
func (v *View) Close() error { return Unmap(v.at) }

// Unmap is Close for a view of an earlier process, if there is one at the directory at.
func Unmap(at string) error {
	err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "unmount", Path: at, Err: err}
}

// Mounts returns mounts of the snapshotter as they are in the view.
func (v *View) Mounts(mounts []mount.Mount) ([]mount.Mount, error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return nil, fmt.Errorf("map %d mounts, of an overlay there is one: %w", len(mounts), errdefs.ErrNotImplemented)
	}
	m := mounts[0]
	m.Options = make([]string, len(mounts[0].Options))
	for i, o := range mounts[0].Options {
		key, value, _ := strings.Cut(o, "=")
		m.Options[i] = o
		if key != "lowerdir" && key != "upperdir" && key != "workdir" {
			continue
		}
		dirs := strings.Split(value, ":")
		for i, dir := range dirs {
			if dirs[i] = v.Path(dir); dirs[i] == dir {
				return nil, fmt.Errorf("map %s, which is not below %s: %w", dir, v.root, errdefs.ErrInvalidArgument)
			}
		}
		m.Options[i] = key + "=" + strings.Join(dirs, ":")
	}
	return []mount.Mount{m}, nil
}

// Path returns the path in the view of one below its root, and any other as it is.
func (v *View) Path(path string) string {
	if rest, ok := strings.CutPrefix(path, v.root+"/"); ok {
		return v.at + "/" + rest
	}
	return path
}
