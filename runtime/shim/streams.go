package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/runtime/logfile"
)

// drainPeriod is how long output is copied that a process left when it ended.
const drainPeriod = 2 * time.Second

// readerPeriod is how long the reader of an output is waited for.
const readerPeriod = 5 * time.Second

// streams are the shim's part of a process's standard streams. Fifos are the
// process's own, so nothing is copied and nobody wakes up; the shim holds their other ends
// open, for the containerd that reads them may be restarted. Log files are written by
// the shim: a container is not to hold a file of the host. So is what comes from a terminal.
type streams struct {
	child    launch.Stdio
	mine     []*os.File // to be closed when the process is started
	held     []*os.File // to be closed in the end
	stdin    *os.File   // held write end of the standard input
	output   *os.File   // where a terminal's output goes
	input    *os.File   // where a terminal's input comes from
	console  *os.File   // the shim's end of a terminal
	uid, gid int        // of the process, on the host
	pumps    sync.WaitGroup

	mu     sync.Mutex
	closed bool
}

// openStreams opens the streams at the given URIs; "" is the container's /dev/null.
func openStreams(stdin, stdout, stderr string, terminal bool, ids launch.IDs, user specs.User) (s *streams, err error) {
	s = &streams{}
	defer func() {
		if err != nil {
			s.closeChild()
			s.close()
			err = fmt.Errorf("open standard streams: %w", err)
		}
	}()
	s.uid, s.gid = ids.Host(user)
	if terminal {
		return s, s.openTerminal(stdin, stdout)
	}
	if s.child.Stdin, err = s.openInput(stdin); err != nil {
		return s, err
	}
	if s.child.Stdout, err = s.openOutput(stdout); err != nil {
		return s, err
	}
	if stderr == stdout {
		s.child.Stderr = s.child.Stdout
		return s, nil
	}
	s.child.Stderr, err = s.openOutput(stderr)
	return s, err
}

// locate returns the path of a URI, and whether it is a fifo.
func locate(uri string) (path string, fifo bool, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", false, err
	}
	if u.Scheme != "" && u.Scheme != "fifo" && u.Scheme != "file" {
		return "", false, fmt.Errorf("scheme %s: %w", u.Scheme, errdefs.ErrNotImplemented)
	}
	st, err := os.Stat(u.Path)
	return u.Path, err == nil && st.Mode()&os.ModeNamedPipe != 0, nil
}

// hold opens a file that is closed in the end.
func (s *streams) hold(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err == nil {
		s.held = append(s.held, f)
	}
	return f, err
}

func (s *streams) openInput(uri string) (*os.File, error) {
	if uri == "" {
		return nil, nil
	}
	path, _, err := locate(uri)
	if err != nil {
		return nil, err
	}
	// Reading and writing never waits for the other end.
	if s.stdin, err = s.hold(path, os.O_RDWR); err != nil {
		return nil, err
	}
	return s.openEnd(path, os.O_RDONLY)
}

func (s *streams) openOutput(uri string) (*os.File, error) {
	if uri == "" {
		return nil, nil
	}
	path, fifo, err := locate(uri)
	if err != nil {
		return nil, err
	}
	if !fifo {
		return s.openLog(path)
	}
	w, err := openWriter(path)
	if err != nil {
		return nil, err
	}
	s.mine = append(s.mine, w)
	if _, err := s.hold(path, os.O_RDONLY); err != nil {
		return nil, err
	}
	return w, w.Chown(s.uid, s.gid)
}

// openWriter opens a fifo for writing once somebody reads it, or has begun to open
// it: what is written before that is lost if the process ends soon. The kernel tells
// nobody of a reader, so this tries again. One that does not come is not waited for.
func openWriter(path string) (*os.File, error) {
	for deadline := time.Now().Add(readerPeriod); ; <-time.After(100 * time.Microsecond) {
		flags := unix.O_WRONLY | unix.O_NONBLOCK
		if time.Now().After(deadline) {
			flags = unix.O_RDWR
		}
		n, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(n), path), unix.SetNonblock(n, false) // for the process's sake
		case !errors.Is(err, unix.ENXIO):
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// openEnd opens the end of a fifo that the process gets. It is the process's own,
// so that it may be opened again as /dev/stdout.
func (s *streams) openEnd(path string, flags int) (*os.File, error) {
	n, err := unix.Open(path, flags|unix.O_CLOEXEC, 0) // not by os, which would make it non-blocking
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(n), path)
	s.mine = append(s.mine, f)
	return f, f.Chown(s.uid, s.gid)
}

// openLog returns the end of a pipe whose content the shim appends to a file.
func (s *streams) openLog(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		log.Close()
		return nil, os.NewSyscallError("pipe2", err)
	}
	w := os.NewFile(uintptr(ends[1]), "pipe")
	s.mine = append(s.mine, w)
	_ = unix.SetNonblock(ends[0], true)
	r := os.NewFile(uintptr(ends[0]), "pipe")
	s.held = append(s.held, r)
	bounded := logfile.NewWriter(log, logfile.Max)
	s.pump(bounded, r, func() { _ = bounded.Close() })
	return w, w.Chown(s.uid, s.gid)
}

// openTerminal opens the fifos of a terminal, which attach copies.
func (s *streams) openTerminal(stdin, stdout string) error {
	if stdin != "" {
		path, _, err := locate(stdin)
		if err != nil {
			return err
		}
		if s.input, err = s.hold(path, os.O_RDONLY); err != nil {
			return err
		}
		if s.stdin, err = s.hold(path, os.O_WRONLY); err != nil {
			return err
		}
	}
	if stdout == "" {
		return nil
	}
	path, fifo, err := locate(stdout)
	if err != nil {
		return err
	}
	flags := os.O_RDWR // it holds the reading end as well
	if !fifo {
		flags = os.O_APPEND | os.O_WRONLY | os.O_CREATE
	} else {
		w, err := openWriter(path)
		if err != nil {
			return err
		}
		s.mine = append(s.mine, w)
	}
	s.output, err = s.hold(path, flags)
	return err
}

// attach copies from and to a terminal. The end of its input hangs up.
func (s *streams) attach(console *os.File) {
	if console == nil {
		return
	}
	s.console = console
	s.held = append(s.held, console)
	out := io.Discard
	if s.output != nil {
		out = s.output
	}
	s.pump(out, console, func() {
		if s.output != nil {
			s.output.Close() // whoever reads it sees the end
		}
	})
	if s.input != nil {
		go func() {
			_ = copyAll(console, s.input)
			console.Close()
		}()
	}
}

func (s *streams) pump(dst io.Writer, src *os.File, done func()) {
	s.pumps.Go(func() {
		_ = copyAll(dst, src) // the process is gone, or the disk is full: nobody could be told
		done()
	})
}

// resize sets the size of a terminal.
func (s *streams) resize(rows, cols uint16) error {
	if s == nil || s.console == nil {
		return fmt.Errorf("no terminal: %w", errdefs.ErrFailedPrecondition)
	}
	c, err := s.console.SyscallConn()
	if err != nil {
		return err
	}
	cerr := c.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	return errors.Join(err, cerr)
}

// closeStdin lets the process see the end of its input, once nobody else writes it.
func (s *streams) closeStdin() {
	if s != nil && s.stdin != nil {
		s.stdin.Close()
	}
}

// closeChild closes the process's ends, which it has by now.
func (s *streams) closeChild() {
	for _, f := range s.mine {
		f.Close()
	}
	s.mine = nil
}

// finish waits until output is copied, not for ever: a descendant may hold it open.
func (s *streams) finish(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		s.pumps.Wait()
		close(done)
	}()
	t := time.NewTimer(drainPeriod)
	defer t.Stop()
	select {
	case <-done:
	case <-ctx.Done():
	case <-t.C:
	}
	s.close()
}

// close closes all; pumps end by it.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, f := range s.held {
		f.Close()
	}
}
