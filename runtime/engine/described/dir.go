package described

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
)

func dirError(format string, args ...any) error {
	return &runtime.SourceError{File: "data directory", Message: fmt.Sprintf(format, args...)}
}

// copyDir copies a data directory, owned by the server. On a filesystem that can,
// copy_file_range(2) shares the blocks.
func (b *build) copyDir(ctx context.Context) error {
	b.wb.Step("copy data directory")
	src, err := os.OpenRoot(b.hostPath("dir"))
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	defer func() { _ = src.Close() }()
	if !hasMarker(src, b.e.d.Build.DirMarkers) {
		return dirError("no data directory of %s: it has none of %s", b.e.d.Name, strings.Join(b.e.d.Build.DirMarkers, ", "))
	}
	return b.root(ctx, func(r *rootfs.Root) error {
		dst, err := r.Dir(b.e.d.Server.Data)
		if err != nil {
			return err
		}
		defer func() { _ = dst.Close() }()
		return b.copyTree(ctx, src, dst)
	})
}

func hasMarker(src *os.Root, markers []string) bool {
	for _, m := range markers {
		if _, err := src.Lstat(m); err == nil {
			return true
		}
	}
	return false
}

func (b *build) copyTree(ctx context.Context, src, dst *os.Root) error {
	var done int64
	err := fs.WalkDir(src.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if b.excluded(name, d) {
			return nil
		}
		n, err := b.copyEntry(src, dst, name, d)
		done += n
		b.wb.Progress(done, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("copy data directory: %w", err)
	}
	return nil
}

// excluded says whether a file is left out: those that the description names, and
// those that are of a running server.
func (b *build) excluded(name string, d fs.DirEntry) bool {
	for _, pattern := range b.e.d.Build.DirExclude {
		if ok, _ := path.Match(pattern, name); ok { // patterns were checked
			return !d.IsDir()
		}
	}
	return d.Type()&(fs.ModeSocket|fs.ModeNamedPipe) != 0
}

func (b *build) copyEntry(src, dst *os.Root, name string, d fs.DirEntry) (int64, error) {
	switch {
	case name == ".":
		return 0, nil
	case d.IsDir():
		if err := dst.Mkdir(name, 0o700); err != nil {
			return 0, err
		}
		return 0, dst.Chown(name, int(b.st.UID), int(b.st.GID))
	case d.Type().IsRegular():
		return b.copyFile(src, dst, name)
	}
	return 0, dirError("%s is neither a file nor a directory: what it leads to is not here", name)
}

func (b *build) copyFile(src, dst *os.Root, name string) (n int64, err error) {
	in, err := src.Open(name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := dst.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if n, err = out.ReadFrom(in); err != nil {
		return n, err
	}
	return n, out.Chown(int(b.st.UID), int(b.st.GID))
}
