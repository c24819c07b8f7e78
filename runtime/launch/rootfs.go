package launch

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// openRoot returns the root filesystem of a container as a mount that is attached
// nowhere: it goes with the last process and file that has it, whatever happens to the
// launcher, and the mount table of the host stays short. Without mounts the root
// is what lies at path already.
func openRoot(mounts []mount.Mount, path string) (*os.File, error) {
	if len(mounts) == 0 {
		return openTree(path, mountOptions{flags: unix.MS_BIND | unix.MS_REC})
	}
	f, err := openDirectly(mounts, path)
	if err == nil {
		return f, nil
	}
	// The kernel is older than the calls, or the mount is of another kind.
	f, lerr := openByPath(mounts, path)
	if lerr != nil {
		return nil, fmt.Errorf("mount root filesystem: %w (%w)", err, lerr)
	}
	return f, nil
}

func openDirectly(mounts []mount.Mount, path string) (*os.File, error) {
	m := mounts[0]
	o, err := parseOptions(m.Options)
	switch {
	case err != nil:
		return nil, err
	case len(mounts) > 1 || m.Target != "":
		return nil, refuse("root filesystem of several mounts")
	case m.Type == "bind" || o.has(unix.MS_BIND):
		return openTree(m.Source, o)
	case m.Type == "overlay":
		return openOverlay(o)
	default:
		return nil, refuse("root filesystem of type " + m.Type)
	}
}

// openByPath mounts at path, clones the mount and unmounts path.
func openByPath(mounts []mount.Mount, path string) (*os.File, error) {
	if err := mount.All(mounts, path); err != nil {
		return nil, err
	}
	f, err := openTree(path, mountOptions{flags: unix.MS_BIND | unix.MS_REC})
	if uerr := mount.UnmountRecursive(path, unix.MNT_DETACH); err == nil && uerr != nil {
		f.Close()
		return nil, uerr
	}
	return f, err
}

// openNoLinks returns a handle of a file that is reached without a symbolic link.
func openNoLinks(path string) (*os.File, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open without following links", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openTree clones what is mounted at path, and below it with MS_REC.
func openTree(path string, o mountOptions) (*os.File, error) {
	return cloneTree(unix.AT_FDCWD, path, path, o)
}

// cloneTree is openTree for a path in a directory, or for the directory itself. name is for people.
func cloneTree(dir int, path, name string, o mountOptions) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if o.has(unix.MS_REC) {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(dir, path, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	attr := o.attributes()
	if o.has(unix.MS_REC) { // nothing of it may spread to the host, or from there
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
		attr.Propagation = 0
	}
	if err == nil && *attr != (unix.MountAttr{}) {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, attr)
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "mount_setattr", Path: name, Err: err}
	}
	return f, nil
}

// openOverlay mounts an overlay. Layers are given one by one: the kernel takes at
// most 256 bytes at once.
func openOverlay(o mountOptions) (*os.File, error) {
	if o.flags&^(unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID) != 0 {
		return nil, refuse("root filesystem: flags of an overlay")
	}
	options := []string{"source=overlay"}
	for _, s := range o.data {
		layers, ok := strings.CutPrefix(s, "lowerdir=")
		if !ok {
			options = append(options, s)
			continue
		}
		for layer := range strings.SplitSeq(layers, ":") {
			options = append(options, "lowerdir+="+layer)
		}
	}
	// Those of fsmount(2), and of no other mount, are all to be set: attributes() clears nothing that matters here.
	return openFilesystem("overlay", options, int(o.attributes().Attr_set))
}

// openFilesystem mounts a filesystem of the kernel's, attached nowhere.
func openFilesystem(kind string, options []string, attributes int) (*os.File, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen "+kind, err)
	}
	defer unix.Close(fs) //nolint:errcheck // of what was only configured
	for _, s := range options {
		if key, value, ok := strings.Cut(s, "="); ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, s)
		}
		if err != nil {
			return nil, fmt.Errorf("%s option %s: %w", kind, s, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("mount "+kind, err)
	}
	n, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, os.NewSyscallError("fsmount "+kind, err)
	}
	return os.NewFile(uintptr(n), kind), nil
}
