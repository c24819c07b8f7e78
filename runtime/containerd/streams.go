package containerd

import (
	"cmp"
	"context"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// streams are the standard streams of a process: fifos that are copied to and
// from a [runtime.Stdio], a log file that the shim writes, or nothing.
type streams struct {
	creator cio.Creator
	io      cio.IO
	stdin   *eofReader // nil if there is none
	output  *meter     // nil if there are no fifos
	period  time.Duration
	dirs    *fifoDirs // nil if there are no fifos
	once    sync.Once
	closed  chan struct{}
}

// fifoDirs are the directories of the fifos that this process is an end of, and the
// lock under which they are made.
type fifoDirs struct {
	sync.Mutex
	open map[string]bool
}

// newStreams returns the streams that a container asks for.
func (r *Runner) newStreams(c runtime.Container) *streams {
	switch {
	case c.Stdio != nil:
		return r.fifos(*c.Stdio, c.Process.Terminal)
	case c.LogPath != "":
		return &streams{creator: newLogFile(c.LogPath), closed: make(chan struct{})}
	default:
		return &streams{creator: cio.NullIO, closed: make(chan struct{})}
	}
}

// fifos returns streams that are copied by this process. The shim wants both
// outputs if it gets any stream at all.
func (r *Runner) fifos(s runtime.Stdio, terminal bool) *streams {
	if s == (runtime.Stdio{}) && !terminal {
		return &streams{creator: cio.NullIO, closed: make(chan struct{})}
	}
	st := &streams{output: &meter{}, period: r.opts.drainPeriod, dirs: &r.fifoDirs, closed: make(chan struct{})}
	var in io.Reader
	if s.Stdin != nil {
		st.stdin = &eofReader{r: s.Stdin, eof: make(chan struct{})}
		in = st.stdin
	}
	opts := []cio.Opt{
		cio.WithStreams(in, st.output.writer(s.Stdout), st.output.writer(s.Stderr)),
		cio.WithFIFODir(r.opts.FIFODir),
	}
	if terminal {
		opts = append(opts, cio.WithTerminal)
	}
	st.creator = cio.NewCreator(opts...)
	return st
}

// create is the [cio.Creator] of the streams.
func (s *streams) create(id string) (cio.IO, error) {
	if s.dirs != nil {
		s.dirs.Lock()
		defer s.dirs.Unlock()
	}
	i, err := s.creator(id)
	s.io = i
	if s.dirs != nil && err == nil {
		s.dirs.open[s.dir()] = true
	}
	return i, err
}

// dir is the directory of the fifos.
func (s *streams) dir() string {
	c := s.io.Config()
	return filepath.Dir(cmp.Or(c.Stdout, c.Stdin, c.Stderr))
}

// closeStdin closes the process's standard input when ours has ended: the shim
// holds the fifo open until it is told so. It waits for that until ctx ends or
// the streams are closed.
func (s *streams) closeStdin(ctx context.Context, p client.Process) {
	if s.stdin == nil {
		return
	}
	go func() {
		select {
		case <-s.stdin.eof:
			// A process that has ended by now needs it no more.
			_ = p.CloseIO(withNamespace(ctx), client.WithStdinCloser)
		case <-ctx.Done():
		case <-s.closed:
		}
	}()
}

// drain waits until all output of a process that has ended is written. A
// descendant that lives on holds the fifos open, so it gives up when nothing
// came for a while (false); a slow reader of the output is waited for.
func (s *streams) drain(ctx context.Context) bool {
	if s == nil || s.output == nil || s.io == nil {
		return true
	}
	done := make(chan struct{})
	go func() {
		s.io.Wait()
		close(done)
	}()
	t := time.NewTicker(s.period)
	defer t.Stop()
	start := time.Now()
	for {
		select {
		case <-done:
			return true
		case <-ctx.Done():
			return false
		case now := <-t.C:
			if s.output.idle(start, now) >= s.period {
				return false
			}
		}
	}
}

// close ends all copying and removes the fifos.
func (s *streams) close() {
	if s == nil || s.io == nil {
		return
	}
	s.once.Do(func() { close(s.closed) })
	s.io.Cancel()
	_ = s.io.Close() // fifos that are closed already
	if s.dirs != nil {
		s.dirs.Lock()
		defer s.dirs.Unlock()
		delete(s.dirs.open, s.dir())
	}
}

// keep remembers the streams of a container until it is deleted.
func (r *Runner) keep(id string, s *streams) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[id] = s
}

func (r *Runner) streamsOf(id string) *streams {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.streams[id]
}

// forget closes the streams of a container when all output is written.
func (r *Runner) forget(ctx context.Context, id string) {
	r.mu.Lock()
	s := r.streams[id]
	delete(r.streams, id)
	r.mu.Unlock()
	s.drain(ctx)
	s.close()
}

// eofReader tells when its reader has ended.
type eofReader struct {
	r    io.Reader
	once sync.Once
	eof  chan struct{}
}

func (e *eofReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil {
		e.once.Do(func() { close(e.eof) })
	}
	return n, err
}

// meter knows when something was written last to any of its writers.
type meter struct {
	mu      sync.Mutex
	writing int
	last    time.Time
}

// writer returns w under the meter; a nil w discards.
func (m *meter) writer(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return &meteredWriter{w, m}
}

// idle returns how long nothing was written, counted from start at the earliest.
func (m *meter) idle(start, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writing > 0 {
		return 0
	}
	if m.last.After(start) {
		start = m.last
	}
	return now.Sub(start)
}

func (m *meter) add(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writing += n
	m.last = time.Now()
}

type meteredWriter struct {
	io.Writer
	meter *meter
}

func (w *meteredWriter) Write(p []byte) (int, error) {
	w.meter.add(1)
	defer w.meter.add(-1)
	return w.Writer.Write(p)
}
