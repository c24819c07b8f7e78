package overlay

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// Volatile returns mounts that never sync their upper layer: what is written
// there does not survive the machine. Mounts that are not overlays are returned
// as they are. A layer that was mounted so once cannot be mounted again
// (https://docs.kernel.org/filesystems/overlayfs.html, "Volatile mount").
func Volatile(mounts []mount.Mount) []mount.Mount {
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type == "overlay" && !slices.Contains(m.Options, "volatile") {
			out[i].Options = append(slices.Clone(m.Options), "volatile")
		}
	}
	return out
}

// Foreign returns mounts of files that others have made: no device is opened there, and no program gets another user.
// Where there is a flag already, it stays.
func Foreign(mounts []mount.Mount) []mount.Mount {
	out := slices.Clone(mounts)
	for i, m := range out {
		out[i].Options = slices.Clone(m.Options)
		for _, flag := range []string{"nodev", "nosuid"} {
			if !slices.Contains(m.Options, flag) {
				out[i].Options = append(out[i].Options, flag)
			}
		}
	}
	return out
}

// UpperDir returns the host's directory that holds what is written to, or, for
// a read-only view, what the topmost layer of mounts consists of. NotFound if
// mounts are none of the overlay snapshotter's.
func UpperDir(mounts []mount.Mount) (string, error) {
	if len(mounts) != 1 {
		return "", fmt.Errorf("find upper directory in %d mounts: %w", len(mounts), errdefs.ErrNotFound)
	}
	m := mounts[0]
	if m.Type == "bind" {
		return m.Source, nil
	}
	if dir, ok := option(m.Options, "upperdir"); ok {
		return dir, nil
	}
	if dirs, ok := option(m.Options, "lowerdir"); ok {
		top, _, _ := strings.Cut(dirs, ":")
		return top, nil
	}
	return "", fmt.Errorf("find upper directory of a mount of type %s: %w", m.Type, errdefs.ErrNotFound)
}

// Layers returns the host's directories of a view, the topmost first.
func Layers(view []mount.Mount) ([]string, error) {
	top, err := UpperDir(view)
	if err != nil {
		return nil, err
	}
	if dirs, ok := option(view[0].Options, "lowerdir"); ok {
		return strings.Split(dirs, ":"), nil
	}
	return []string{top}, nil
}

// option returns the value of "key=value".
func option(options []string, key string) (string, bool) {
	for _, o := range options {
		if k, v, ok := strings.Cut(o, "="); ok && k == key {
			return v, true
		}
	}
	return "", false
}
