// Package logfile bounds what the log of a clone takes on the disk.
package logfile

import (
	"os"

	"golang.org/x/sys/unix"
)

// Max is how large the log of a clone may become, in bytes. Then its older half goes.
const Max = 64 << 20

// Trim frees the older part of a log that has become larger than limit bytes on disk: half of limit is left. It
// stays where it is, and who writes goes on doing so: see fallocate(2), FALLOC_FL_PUNCH_HOLE. A log that is
// not there is none that is too large.
func Trim(path string, limit int64) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Blocks*512 <= limit {
		return nil //nolint:nilerr // the clone is going just now
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return trim(f, limit)
}

// trim frees whole blocks only: what is less would be overwritten with zeros.
func trim(f *os.File, limit int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 <= limit {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, (st.Size-limit/2)&^4095)
}

// Writer appends to a log and keeps it below a limit itself, so that nobody can fill the disk between two looks at it.
// It is for one goroutine.
type Writer struct {
	file    *os.File
	limit   int64
	written int64 // since the size was looked at
}

// NewWriter returns a Writer for a file that is open for appending, and that it closes.
func NewWriter(f *os.File, limit int64) *Writer { return &Writer{file: f, limit: limit} }

// Write appends p.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	// A filesystem may hold more blocks for a file that grows than it has bytes.
	if w.written += int64(n); w.written >= w.limit/8 {
		w.written = 0
		_ = trim(w.file, w.limit) // where it cannot be, the log grows
	}
	return n, err
}

// Close closes the file.
func (w *Writer) Close() error { return w.file.Close() }
