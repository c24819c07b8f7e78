package postgres

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// pg_restore takes the end of a member of a tar, and that of a file in a directory, for the end of a table, wherever it is: rows are missing
// then, and nobody is told; or it reads for ever. So these formats are looked through ahead. In the custom format each block says
// how long it is, and pg_restore notices.

// verify says what is missing of an archive in the sources.
func (b *build) verify(ctx context.Context, a archive) error {
	if a.source == "" {
		return nil
	}
	root, err := os.OpenRoot(b.hostPath("dump"))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var what error
	switch a.format { //nolint:exhaustive // the others tell by themselves
	case formatTar:
		what = verifyTar(root, a.source)
	case formatDirectory:
		what = verifyDir(ctx, b.hostPath("dump", a.source))
	}
	if ctx.Err() != nil || what == nil {
		return ctx.Err()
	}
	return dumpError(a.name, "the dump is cut short or damaged: %v", what)
}

// verifyTar reads a tar from header to header, to the two empty blocks that end it.
func verifyTar(root *os.Root, name string) error {
	f, err := foreign.Open(root, name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	last := "the beginning"
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		at, serr := f.Seek(0, io.SeekCurrent)
		if serr != nil {
			return serr
		}
		if errors.Is(err, io.EOF) {
			return verifyTarEnd(f, at)
		}
		if err != nil {
			return fmt.Errorf("after %.100s: %w", last, err)
		}
		if last = h.Name; h.Size > size-at {
			return fmt.Errorf("of %.100s %d bytes are missing", last, h.Size-(size-at))
		}
	}
}

// verifyTarEnd says whether two empty blocks are before position at.
func verifyTarEnd(f *os.File, at int64) error {
	var end [1024]byte
	if at < int64(len(end)) {
		return errors.New("it is empty")
	}
	if _, err := f.ReadAt(end[:], at-int64(len(end))); err != nil {
		return err
	}
	if end != [1024]byte{} {
		return errors.New("the end of the tar is missing")
	}
	return nil
}

// verifyDir reads all files of a dump in directory format.
func verifyDir(ctx context.Context, name string) error {
	dir, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	entries, err := fs.ReadDir(foreign.FS(dir), ".")
	if err != nil {
		return err
	}
	var listed, found []string
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs())
	for _, e := range entries {
		name := e.Name()
		switch base, packing := unpackedName(name); {
		case strings.HasPrefix(name, "blobs") && path.Ext(base) == ".toc":
			names, err := readBlobs(dir, name)
			if err != nil {
				return errors.Join(err, group.Wait())
			}
			listed = append(listed, names...)
		case path.Ext(base) == ".dat" && base != "toc.dat":
			blob := strings.HasPrefix(base, "blob_")
			if blob {
				found = append(found, base)
			}
			group.Go(func() error { return verifyData(ctx, dir, name, packing, blob) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.Sort(listed)
	slices.Sort(found)
	if listed = slices.Compact(listed); !slices.Equal(listed, found) {
		return fmt.Errorf("%d large objects are listed, %d are there", len(listed), len(found))
	}
	return nil
}

func unpackedName(name string) (base, packing string) {
	for _, ext := range []string{".gz", ".zst", ".lz4"} {
		if base, ok := strings.CutSuffix(name, ext); ok {
			return base, ext
		}
	}
	return name, ""
}

// readBlobs returns the files of large objects that a list names: lines "OID FILE".
func readBlobs(dir *os.Root, name string) (names []string, err error) {
	text, err := foreign.ReadFile(dir, name, 1<<30)
	if err != nil {
		return nil, err
	}
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("%s has no end", name)
	}
	for line := range strings.Lines(string(text)) {
		_, file, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		names = append(names, file)
	}
	return names, nil
}

// verifyData reads a file of data to its end.
func verifyData(ctx context.Context, dir *os.Root, name, packing string, blob bool) error {
	f, err := foreign.Open(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	var r io.Reader = contextReader{ctx, f}
	switch packing {
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		r = z
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		defer z.Close()
		r = z
	case ".lz4":
		return nil // pg_restore itself notices where a frame has no end
	default:
		if _, err := f.Seek(-min(int64(len(endOfCopy)), fileSize(f)), io.SeekEnd); err != nil {
			return err
		}
	}
	end := &tail{}
	if _, err := io.Copy(end, r); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if text := end.buf; !blob && !bytes.HasSuffix(text, []byte(endOfCopy)) && !bytes.HasSuffix(text, []byte(endOfInserts)) && len(bytes.Trim(text, "\n")) > 0 {
		return fmt.Errorf("%s: the end of its rows is missing", name)
	}
	return nil
}

// How pg_dump ends the rows of a table: those of COPY, and those of INSERT.
const (
	endOfCopy    = "\\.\n\n\n"
	endOfInserts = ";\n\n\n"
)

func fileSize(f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
