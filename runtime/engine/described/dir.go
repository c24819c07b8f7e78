package described

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
)

// copyDir copies a data directory, owned by the server.
func (b *build) copyDir(ctx context.Context) error {
	b.wb.Step("copy data directory")
	src, err := os.OpenRoot(b.hostPath("dir"))
	if err != nil {
		return fmt.Errorf("open data directory: %w", err)
	}
	defer func() { _ = src.Close() }()
	if !hasMarker(src, b.e.d.Build.DirMarkers) {
		return source.DirError("no data directory of %s: it has none of %s", b.e.d.Name, strings.Join(b.e.d.Build.DirMarkers, ", "))
	}
	return rootfs.Edit(ctx, b.wb.Root, func(r *rootfs.Root) error {
		dst, err := r.Dir(b.e.d.Server.Data)
		if err != nil {
			return err
		}
		defer func() { _ = dst.Close() }()
		t := source.Tree{UID: b.st.UID, GID: b.st.GID, Skip: b.excluded, Progress: b.wb.Progress}
		return t.Copy(ctx, src, dst)
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

// excluded says whether a file is left out: those that the description names, and
// those that are of a running server.
func (b *build) excluded(name string, d fs.DirEntry) (bool, error) {
	for _, pattern := range b.e.d.Build.DirExclude {
		if ok, _ := path.Match(pattern, name); ok { // patterns were checked
			return !d.IsDir(), nil
		}
	}
	return d.Type()&(fs.ModeSocket|fs.ModeNamedPipe) != 0, nil
}
