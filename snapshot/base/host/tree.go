package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// addTree adds the directory root, which is no symlink, and all that is in it.
func (f *finder) addTree(ctx context.Context, root, target string) error {
	f.open = append(f.open, root)
	defer func() { f.open = f.open[:len(f.open)-1] }()
	return filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return class(err)
		}
		info, err := d.Info()
		if err != nil {
			return class(err)
		}
		t := path.Join(target, strings.TrimPrefix(name, root))
		switch {
		case d.IsDir():
			_, err = f.put(directory(t, info.Mode().Perm()))
		case info.Mode().IsRegular():
			err = f.addRegular(name, t, info.Mode(), identify(info), false)
		case info.Mode()&fs.ModeSymlink != 0:
			err = f.addLink(ctx, root, name, t)
		}
		return err // sockets, pipes and devices are left out
	})
}

// addLink adds the symlink name of the directory root. A link that leads to a
// place within root stays a link, straight to that place; of others what they
// lead to is copied.
func (f *finder) addLink(ctx context.Context, root, name, target string) error {
	resolved, err := follow(name)
	if errors.Is(err, fs.ErrNotExist) || isLoop(err) {
		f.log.Debug("link left out: leads nowhere", "file", name)
		return nil
	}
	if err != nil {
		return class(err)
	}
	if within(root, resolved) {
		text, err := filepath.Rel(filepath.Dir(name), resolved)
		if err == nil {
			_, err = f.put(symlink(target, text))
		}
		return err
	}
	if slices.ContainsFunc(f.open, func(dir string) bool { return within(resolved, dir) }) {
		f.log.Warn("link left out: leads to a directory that it is copied from", "file", name)
		return nil
	}
	if err := public(resolved, root); err != nil {
		f.log.Warn("link left out", "file", name, "err", err)
		return nil
	}
	return f.addAny(ctx, resolved, target, false)
}

// follow is filepath.EvalSymlinks for a symlink in a directory without links
// in its path. Most lead to a neighbour: that saves looking at each directory
// from the root on.
func follow(name string) (string, error) {
	link, err := os.Readlink(name)
	if err != nil {
		return "", err
	}
	if strings.Contains(link, "/") {
		return filepath.EvalSymlinks(name)
	}
	neighbour := filepath.Join(filepath.Dir(name), link)
	info, err := os.Lstat(neighbour)
	if err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return neighbour, nil
	}
	return filepath.EvalSymlinks(name)
}

// isLoop knows the error for links that lead to each other: the kernel's and
// that of filepath.EvalSymlinks, which has no name.
func isLoop(err error) bool {
	return errors.Is(err, syscall.ELOOP) || err != nil && err.Error() == "EvalSymlinks: too many links"
}

// within says whether name is dir or below it. Both are clean.
func within(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// public returns an error unless every user of the host can read name, which
// a symlink led to from the path from: whoever made the link must not read
// more through the copy. Directories that from is in are not looked at: the
// copy was asked for there.
func public(name, from string) error {
	for _, special := range []string{"/proc", "/sys", "/dev"} {
		if within(special, name) {
			return notPublic(name)
		}
	}
	info, err := os.Lstat(name)
	if err != nil {
		return class(err)
	}
	if info.Mode().Perm()&0o004 == 0 {
		return notPublic(name)
	}
	for dir := filepath.Dir(name); !within(dir, from); dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return class(err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return notPublic(dir)
		}
	}
	return nil
}

func notPublic(name string) error {
	return snapshot.WithHint(
		fmt.Errorf("%s is not readable by all users: %w", name, errdefs.ErrPermissionDenied),
		"a root filesystem is made only of files that every user of the host can read")
}
