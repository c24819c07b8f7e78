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
	if err := f.allowed(resolved); err != nil {
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

// allowed says why a file, whose path has no links, is not one to be copied: whoever named it, as interpreter of a script, library or
// end of a link, must not read more by the copy, nor have others read more. What is in the prefix is theirs to give; of anything
// else root owns it and the directories above, and every user of the host reaches it.
func (f *finder) allowed(name string) error {
	if f.prefix != "" && within(f.prefix, name) {
		return nil
	}
	for _, special := range []string{"/proc", "/sys", "/dev"} {
		if within(special, name) {
			return notPublic(name)
		}
	}
	info, err := os.Lstat(name)
	if err != nil {
		return class(err)
	}
	if err := rootsOwn(name, info, 0o004); err != nil {
		return err
	}
	return f.reached(filepath.Dir(name))
}

// reached is allowed for the directory that something lies in.
func (f *finder) reached(dir string) error {
	if err, known := f.public[dir]; known {
		return err
	}
	info, err := os.Lstat(dir)
	if err == nil {
		err = rootsOwn(dir, info, 0o001)
	}
	if err == nil && dir != "/" {
		err = f.reached(filepath.Dir(dir))
	}
	f.public[dir] = err
	return err
}

// rootsOwn refuses what another user owns or may exchange, and what not all users have a right to.
func rootsOwn(name string, info fs.FileInfo, right fs.FileMode) error {
	mode := info.Mode()
	if mode.Perm()&right == 0 {
		return notPublic(name)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 || mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0 {
		return snapshot.WithHint(fmt.Errorf("%s is not root's alone: %w", name, errdefs.ErrPermissionDenied),
			"outside of --from-host=PREFIX only files of root's are taken")
	}
	return nil
}

func notPublic(name string) error {
	return snapshot.WithHint(
		fmt.Errorf("%s is not readable by all users: %w", name, errdefs.ErrPermissionDenied),
		"a root filesystem is made only of files that every user of the host can read")
}
