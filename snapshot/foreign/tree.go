package foreign

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// FS returns the tree for the functions of package fs. Its entries have been looked at when they are listed, so their
// Info costs nothing and has the file as it was then.
func FS(root *os.Root) fs.FS { return tree{root} }

// tree is an [fs.FS].
type tree struct{ root *os.Root }

var (
	_ fs.ReadDirFS = tree{}
	_ fs.StatFS    = tree{}
)

// Open opens a regular file.
func (t tree) Open(name string) (fs.File, error) { return Open(t.root, name) }

// Stat is about a link itself.
func (t tree) Stat(name string) (fs.FileInfo, error) { return t.root.Lstat(name) }

// ReadDir lists a directory, by name.
func (t tree) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// Check looks for what does not belong into the layer of an image: its error, InvalidArgument, names the first device,
// FIFO or socket. Whiteouts are none of them: overlayfs hides by these what a layer below has.
func Check(ctx context.Context, root *os.Root) error {
	return fs.WalkDir(FS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || d.Type()&^(fs.ModeDir|fs.ModeSymlink) == 0 {
			return err
		}
		info, err := d.Info()
		if err != nil || whiteout(info) {
			return err
		}
		return fmt.Errorf("%s is a %s: %w", name, kind(d.Type()), errdefs.ErrInvalidArgument)
	})
}

// whiteout says whether a file is what overlayfs has in place of one that was removed: character device 0:0.
func whiteout(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().Type() == fs.ModeDevice|fs.ModeCharDevice && st.Rdev == 0
}
