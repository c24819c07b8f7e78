package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// addTree adds the directory root, which is no symlink, and all that is in it.
func (f *finder) addTree(ctx context.Context, root, target string) error {
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

// addLink adds the symlink name of the directory root. A link that stays
// within root stays a link; of others what they lead to is copied.
func (f *finder) addLink(ctx context.Context, root, name, target string) error {
	link, err := os.Readlink(name)
	if err != nil {
		return class(err)
	}
	resolved, err := filepath.EvalSymlinks(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ELOOP) || isTooManyLinks(err) {
		f.log.Debug("link left out: leads nowhere", "file", name)
		return nil
	}
	if err != nil {
		return class(err)
	}
	if text, ok := linkWithin(root, name, link, resolved); ok {
		_, err := f.put(symlink(target, text))
		return err
	}
	if within(resolved, root) {
		f.log.Warn("link left out: leads to a directory that it is in", "file", name)
		return nil
	}
	if err := public(resolved); err != nil {
		return fmt.Errorf("follow %s: %w", name, err)
	}
	return f.addAny(ctx, resolved, target, false)
}

// isTooManyLinks knows filepath.EvalSymlinks' own error for a loop.
func isTooManyLinks(err error) bool {
	return err != nil && err.Error() == "EvalSymlinks: too many links"
}

// linkWithin returns the text of a relative link that leads where link, read
// from name, leads, if that is within root.
func linkWithin(root, name, link, resolved string) (string, bool) {
	dest := link
	if !filepath.IsAbs(link) {
		dest = filepath.Join(filepath.Dir(name), link)
	}
	if !within(root, dest) || !within(root, resolved) {
		return "", false
	}
	if !filepath.IsAbs(link) {
		return link, true
	}
	text, err := filepath.Rel(filepath.Dir(name), dest)
	return text, err == nil
}

// within says whether name is dir or below it. Both are clean.
func within(dir, name string) bool {
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// public returns an error unless every user of the host can read name, which
// a symlink led to: whoever made the link must not read more through the copy.
func public(name string) error {
	for _, special := range []string{"/proc", "/sys", "/dev"} {
		if within(special, name) {
			return notPublic(name)
		}
	}
	bit := fs.FileMode(0o004)
	for p := name; ; p = filepath.Dir(p) {
		info, err := os.Lstat(p)
		if err != nil {
			return class(err)
		}
		if info.IsDir() && p != name {
			bit = 0o001
		}
		if info.Mode().Perm()&bit == 0 {
			return notPublic(p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}

func notPublic(name string) error {
	return snapshot.WithHint(
		fmt.Errorf("%s is not readable by all users: %w", name, errdefs.ErrPermissionDenied),
		"a root filesystem is made only of files that every user of the host can read")
}
