package dial

import (
	"bytes"
	"fmt"

	"github.com/containerd/errdefs"
)

// Answer keeps what a program writes whose word is not trusted, up to a limit. More is an error of Write, which ends the program: see
// [runtime.Workbench]. It is for one writer at a time.
type Answer struct {
	Limit int // in bytes
	buf   bytes.Buffer
}

// Write keeps all of p or nothing: InvalidArgument.
func (a *Answer) Write(p []byte) (int, error) {
	if len(p) > a.Limit-a.buf.Len() {
		return 0, fmt.Errorf("it answers more than %d bytes: %w", a.Limit, errdefs.ErrInvalidArgument)
	}
	return a.buf.Write(p)
}

// Bytes returns what was written, until the next Write.
func (a *Answer) Bytes() []byte { return a.buf.Bytes() }

// String returns what was written.
func (a *Answer) String() string { return a.buf.String() }

// Reset forgets what was written.
func (a *Answer) Reset() { a.buf.Reset() }
