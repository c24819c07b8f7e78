// Package packed unpacks what golden builds are given: gzip, zstd and xz, as their own programs do.
package packed

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Extensions are those of files that Decompress unpacks.
var Extensions = []string{".gz", ".zst", ".xz"}

// Decompress returns the content of r. ext is one of Extensions, or another for what is not packed.
func Decompress(r io.Reader, ext string) (io.ReadCloser, error) {
	switch ext {
	case ".gz":
		return unzip(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	if ext == ".xz" {
		in := &footed{r: r}
		x, err := xz.NewReader(in)
		return io.NopCloser(whole{x, in}), err
	}
	return io.NopCloser(r), nil
}

// footed remembers the last bytes read that are no zeros of padding.
type footed struct {
	r    io.Reader
	last [2]byte
}

func (f *footed) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	for _, b := range bytes.TrimRight(p[:n], "\x00") {
		f.last = [2]byte{f.last[1], b}
	}
	return n, err
}

// whole is a reader of xz that takes an end for one only if the file has it: the library does not tell all files that are cut.
type whole struct {
	r  io.Reader
	in *footed
}

func (w whole) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if errors.Is(err, io.EOF) && string(w.in.last[:]) != "YZ" {
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// unzip reads members of gzip one after another, and the zeros after the last one, as gzip(1) does: tapes and some
// object stores pad files.
func unzip(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReader(r)
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, err
	}
	z.Multistream(false)
	return &members{b, z}, nil
}

type members struct {
	b *bufio.Reader
	z *gzip.Reader
}

func (m *members) Close() error { return m.z.Close() }

func (m *members) Read(p []byte) (int, error) {
	n, err := m.z.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	head, err := m.b.Peek(1)
	for err == nil && head[0] == 0 {
		_, _ = m.b.Discard(1) // it was peeked
		if head, err = m.b.Peek(1); err == nil && head[0] != 0 {
			return n, gzip.ErrHeader
		}
	}
	if err != nil {
		return n, err
	}
	if err := m.z.Reset(m.b); err != nil {
		return n, err
	}
	m.z.Multistream(false)
	return n, nil
}

// Unpack returns the content of r, which says by its first bytes how it is packed.
func Unpack(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, _ := b.Peek(6) // what is short is not packed
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return Decompress(b, ".gz")
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Decompress(b, ".zst")
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return Decompress(b, ".xz")
	}
	return io.NopCloser(b), nil
}
