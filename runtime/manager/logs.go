package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
)

// flushTime is how long a shim may take to write the last lines of a server that has ended.
const flushTime = 100 * time.Millisecond

// Logs writes what the server of a clone has written. Following ends with the server's end or the clone's.
func (m *Manager) Logs(ctx context.Context, caller access.Caller, id string, tail int, follow bool, w io.Writer) error {
	c, err := m.registry.find(caller, id)
	if err != nil {
		return err
	}
	f, err := os.Open(m.files.log(c.id))
	if err != nil {
		return fmt.Errorf("open log of clone %s: %w", c.id, err)
	}
	defer f.Close()
	if err := seekTail(f, tail); err != nil {
		return fmt.Errorf("read log of clone %s: %w", c.id, err)
	}
	if follow {
		err = c.followLog(ctx, f, w)
	} else {
		_, err = io.Copy(w, f)
	}
	if err != nil {
		return fmt.Errorf("read log of clone %s: %w", c.id, err)
	}
	return nil
}

// followLog copies f whenever it grows.
func (c *clone) followLog(ctx context.Context, f *os.File, w io.Writer) error {
	grown, stop, err := watchFile(f.Name())
	if err != nil {
		return err
	}
	defer stop()
	for {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return nil
		case <-c.gone:
			return nil
		case <-c.died:
			select { // what is written late belongs to it
			case <-time.After(flushTime):
			case <-ctx.Done():
			}
			_, err := io.Copy(w, f)
			return err
		}
	}
}

// watchFile tells when a file is written to, by inotify(7).
func watchFile(path string) (grown <-chan struct{}, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, os.NewSyscallError("inotify_init1", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("inotify_add_watch", err), events.Close())
	}
	c, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			if _, err := events.Read(buf); err != nil {
				return // closed by stop
			}
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}()
	return c, func() { _ = events.Close(); <-done }, nil
}

// afterHole moves to the first byte of a log that is there still.
func afterHole(f *os.File) (int64, error) {
	at, err := f.Seek(0, unix.SEEK_DATA)
	if err != nil { // there is none, or the filesystem cannot tell
		return f.Seek(0, 0)
	}
	return at, nil
}

// seekTail moves f to the beginning of its last n lines; all if n is negative.
func seekTail(f *os.File, n int) error {
	begin, err := afterHole(f)
	if err != nil || n < 0 {
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	pos, buf := end, make([]byte, 32<<10)
	for pos > begin {
		size := min(pos-begin, int64(len(buf)))
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := int(size); i > 0; {
			i = bytes.LastIndexByte(buf[:i], '\n')
			if i < 0 {
				break
			}
			if at := pos + int64(i) + 1; at < end { // a line begins here
				n--
				if n == 0 {
					_, err := f.Seek(at, io.SeekStart)
					return err
				}
			}
		}
	}
	if n <= 0 {
		return nil // tail 0: stay at the end
	}
	_, err = f.Seek(begin, io.SeekStart)
	return err
}

// lastLines returns the last n lines of a file, or "".
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if seekTail(f, n) != nil {
		return ""
	}
	b, _ := io.ReadAll(io.LimitReader(f, 16<<10)) // what could be read helps as well
	return strings.TrimSpace(string(b))
}
