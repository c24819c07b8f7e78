package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// Open opens a source of a kind (dump, init, mask) that is a regular file.
func Open(wb runtime.Workbench, kind, name string) (*os.File, error) {
	r, err := rootfs.Open(wb.SourceDir())
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return r.File("/" + kind + "/" + name)
}

// DirError says what is wrong with a data directory.
func DirError(format string, args ...any) error {
	return &runtime.SourceError{File: "data directory", Message: fmt.Sprintf(format, args...)}
}

// Tree is how a data directory is copied.
type Tree struct {
	UID, GID uint32 // whose the copy is
	// Skip says what is left out, by its path in the directory.
	Skip     func(name string, d fs.DirEntry) (bool, error)
	Progress func(done, all int64) // bytes; see [runtime.Workbench]
}

// Copy copies src to dst. On a filesystem that can, copy_file_range(2) shares the
// blocks. What is neither a file nor a directory is a [runtime.SourceError].
func (t Tree) Copy(ctx context.Context, src, dst *os.Root) error {
	var done int64
	err := fs.WalkDir(foreign.FS(src), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if skip, err := t.Skip(name, d); skip || err != nil {
			return err
		}
		n, err := t.copyEntry(src, dst, name, d)
		done += n
		t.Progress(done, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("copy data directory: %w", err)
	}
	return nil
}

func (t Tree) copyEntry(src, dst *os.Root, name string, d fs.DirEntry) (int64, error) {
	switch {
	case name == ".":
		return 0, nil
	case d.IsDir():
		if err := dst.Mkdir(name, 0o700); err != nil {
			return 0, err
		}
		return 0, dst.Chown(name, int(t.UID), int(t.GID))
	case d.Type().IsRegular():
		return t.copyFile(src, dst, name)
	}
	return 0, DirError("%s is neither a file nor a directory: what it leads to is not here", name)
}

func (t Tree) copyFile(src, dst *os.Root, name string) (n int64, err error) {
	in, err := foreign.Open(src, name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	out, err := foreign.Create(dst, name, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if n, err = out.ReadFrom(in); err != nil {
		return n, err
	}
	return n, out.Chown(int(t.UID), int(t.GID))
}
