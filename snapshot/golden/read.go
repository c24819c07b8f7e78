package golden

import (
	"context"
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// Of a read from the disk: its size, and what its buffer is aligned to (open(2), O_DIRECT).
const (
	readSize  = 1 << 20
	alignment = 4096
)

// reader reads files whole. It is for one goroutine.
type reader struct {
	direct bool                        // from the disk, past the page cache and without a trace there
	pace   func(context.Context) error // called after each MiB; nil reads as fast as it can
	buf    []byte
	since  int // bytes since the last pace
}

// read copies a regular file, of which at is a handle, to w.
func (r *reader) read(ctx context.Context, w io.Writer, at *os.File) (n int64, err error) {
	f, err := r.open(at)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for direct := r.direct; ; {
		got, err := f.Read(r.buffer())
		n += int64(got)
		_, _ = w.Write(r.buf[:got])
		if errors.Is(err, unix.EINVAL) && direct { // behind an end that is not aligned, on some filesystems
			direct = false
			_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_RDONLY)
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err == nil {
			err = r.wait(ctx, got)
		}
		if err != nil {
			return n, err
		}
	}
}

func (r *reader) open(at *os.File) (*os.File, error) {
	if r.direct {
		f, err := foreign.Reopen(at, os.O_RDONLY|unix.O_DIRECT)
		if !errors.Is(err, unix.EINVAL) { // of a filesystem that has no such reads
			return f, err
		}
	}
	return foreign.Reopen(at, os.O_RDONLY)
}

func (r *reader) wait(ctx context.Context, got int) error {
	r.since += got
	if r.pace == nil || r.since < readSize {
		return ctx.Err()
	}
	r.since = 0
	return r.pace(ctx)
}

// buffer returns what is read into, which begins at an aligned address.
func (r *reader) buffer() []byte {
	if r.buf == nil {
		b := make([]byte, readSize+alignment)
		off := alignment - int(uintptr(unsafe.Pointer(&b[0]))%alignment)
		r.buf = b[off : off+readSize]
	}
	return r.buf
}
