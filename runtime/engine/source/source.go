// Package source reads the sources of goldens: files that may be packed.
package source

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// Decompress returns the content of r. ext is ".gz", ".zst", or another for what is not packed.
func Decompress(r io.Reader, ext string) (io.ReadCloser, error) {
	switch ext {
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// Unpack returns the content of r, which says by its first bytes how it is packed.
func Unpack(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, _ := b.Peek(4) // what is short is not packed
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Decompress(b, ".gz")
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Decompress(b, ".zst")
	}
	return io.NopCloser(b), nil
}

// UnpackError says that a file could not be unpacked.
func UnpackError(name string, err error) error {
	return &runtime.SourceError{File: name, Message: "unpack: " + err.Error()}
}

// Reader remembers why its reader ended: to a process at the other end of a pipe
// every end looks the same.
type Reader struct {
	R   io.Reader
	Err error // other than io.EOF
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.R.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Err = err
		return n, io.EOF
	}
	return n, err
}
