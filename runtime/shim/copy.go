package shim

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// buffers are shared by all that is copied: a stream has one only while it has data.
var buffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

// copyAll copies until the end of src, or until one of both is closed. The end of a
// terminal counts as one.
func copyAll(dst io.Writer, src *os.File) error {
	c, err := src.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var buf *[16 << 10]byte
		var n int
		var rerr error
		err := c.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[16 << 10]byte)
			n, rerr = unix.Read(int(fd), buf[:])
			if errors.Is(rerr, unix.EAGAIN) || errors.Is(rerr, unix.EINTR) {
				buffers.Put(buf)
				return false
			}
			return true
		})
		if err != nil {
			return err
		}
		if n > 0 {
			_, err = dst.Write(buf[:n])
		}
		buffers.Put(buf)
		switch {
		case err != nil:
			return err
		case n <= 0 && (rerr == nil || errors.Is(rerr, unix.EIO)):
			return nil
		case rerr != nil:
			return rerr
		}
	}
}
