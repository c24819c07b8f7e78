// Package source reads the sources of goldens: files that may be packed.
package source

import (
	"errors"
	"io"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/packed"
)

// Decompress is that of package packed.
func Decompress(r io.Reader, ext string) (io.ReadCloser, error) { return packed.Decompress(r, ext) }

// Unpack is that of package packed.
func Unpack(r io.Reader) (io.ReadCloser, error) { return packed.Unpack(r) }

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
