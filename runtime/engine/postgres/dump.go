package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// progressEvery is how often the caller is told how far a restore is.
const progressEvery = 250 * time.Millisecond

// restoreDump brings in a dump of any format.
func (b *build) restoreDump(ctx context.Context, name string) error {
	b.wb.Step("restore " + name)
	info, err := os.Lstat(b.hostPath("dump", name))
	if err != nil {
		return fmt.Errorf("open dump: %w", err)
	}
	if info.IsDir() {
		if _, err := os.Lstat(b.hostPath("dump", name, "toc.dat")); err != nil {
			return dumpError(name, "no toc.dat in the directory: not a dump in directory format")
		}
		return b.restoreArchive(ctx, archive{name: name, source: name, path: sourcePath("dump", name), format: formatDirectory})
	}
	f, err := source.Open(b.wb, "dump", name)
	if err != nil {
		return fmt.Errorf("open dump: %w", err)
	}
	defer f.Close()
	return b.restoreFile(ctx, name, f, info.Size())
}

func dumpError(name, format string, args ...any) error {
	return &runtime.SourceError{File: name, Message: fmt.Sprintf(format, args...)}
}

func (b *build) restoreFile(ctx context.Context, name string, f *os.File, size int64) error {
	count := &counter{r: f}
	head, content, err := unpack(count)
	if err != nil {
		return source.UnpackError(name, err)
	}
	defer content.Close()
	plain := content.compressed == ""
	switch kind := sniff(head); kind {
	case formatCustom, formatTar:
		if plain {
			return b.restoreArchive(ctx, archive{name: name, source: name, path: sourcePath("dump", name), format: kind})
		}
		return b.restorePacked(ctx, archive{name: name, format: kind}, content)
	case formatPlain, formatCluster:
		return b.restorePlain(ctx, plainDump{name: name, head: head, cluster: kind == formatCluster, r: content, read: &count.n, size: size})
	default:
		return snapshot.WithHint(dumpError(name, "not a dump: neither of pg_dump's formats nor SQL"),
			"dumps are made by pg_dump -Fc, -Fd, -Ft or -Fp, or by pg_dumpall; SQL may be packed with gzip or zstd")
	}
}

// content is what is in a file, unpacked.
type content struct {
	io.Reader
	io.Closer
	compressed string // ".gz", ".zst" or ""
}

// unpack returns the first bytes of what r holds, and all of it.
func unpack(r io.Reader) (head []byte, c content, err error) {
	if head, err = readHead(r); err != nil {
		return nil, c, err
	}
	c = content{io.MultiReader(bytes.NewReader(head), r), io.NopCloser(nil), ""}
	switch sniff(head) { //nolint:exhaustive // the others are not compressed
	case formatGzip:
		c.compressed = ".gz"
	case formatZstd:
		c.compressed = ".zst"
	default:
		return head, c, nil
	}
	z, err := source.Decompress(c.Reader, c.compressed)
	if err != nil {
		return nil, c, err
	}
	if head, err = readHead(z); err != nil {
		return nil, c, errors.Join(err, z.Close())
	}
	return head, content{io.MultiReader(bytes.NewReader(head), z), z, c.compressed}, nil
}

// restorePacked unpacks an archive beside itself first: pg_restore wants to seek.
func (b *build) restorePacked(ctx context.Context, a archive, r io.Reader) error {
	root, err := os.OpenRoot(b.hostPath("dump"))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	const unpacked = ".unpacked"
	f, err := foreign.Create(root, unpacked, 0o644)
	if err != nil {
		return err
	}
	defer root.Remove(unpacked) //nolint:errcheck // the sources are removed after the build anyway
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return source.UnpackError(a.name, err)
	}
	a.source, a.path = unpacked, sourcePath("dump", unpacked)
	return b.restoreArchive(ctx, a)
}

// counter counts what is read, for another goroutine to see.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// watch runs fn, which touches the workbench in no way, and reports done
// meanwhile.
func (b *build) watch(done *atomic.Int64, total int64, fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- fn() }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-result:
			b.wb.Progress(done.Load(), total)
			return err
		case <-tick.C:
			b.wb.Progress(done.Load(), total)
		}
	}
}
