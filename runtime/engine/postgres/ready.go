package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// errDied ends a wait for a server that has ended.
var errDied = fmt.Errorf("the server has ended before it was ready: %w", errdefs.ErrUnavailable)

// pollInterval is how often the pid file is looked at where the kernel does
// not tell about it (no inotify instance left, data directory not there yet).
const pollInterval = time.Millisecond

// Ready waits until the server says in its pid file that it takes connections,
// then connects once and asks a query: each refused connection would fork a
// backend and slow the boot.
func (*Engine) Ready(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint, died <-chan struct{}) error {
	s, err := stateOf(g)
	if err != nil {
		return err
	}
	ctx, stop := untilDied(ctx, died)
	defer stop()
	if err := waitPidFile(ctx, ep.PID, s.DataDir, pidFile.ready); err != nil {
		return fmt.Errorf("wait for server of %s: %w", g.Ref(), cause(ctx, err))
	}
	if err := probe(ctx, ep.SocketDir, s.User, s.DB); err != nil {
		return fmt.Errorf("query server of %s: %w", g.Ref(), cause(ctx, err))
	}
	return nil
}

// untilDied returns a context that ends with errDied when died is closed.
func untilDied(parent context.Context, died <-chan struct{}) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-died:
			cancel(errDied)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}

// cause is why ctx has ended if it has, else err.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// pidFile is the text of postmaster.pid. Its lines are those of miscadmin.h,
// LOCK_FILE_LINE_*: pid, directory, start, port, socket directory, address,
// shared memory, status.
type pidFile string

func (p pidFile) line(n int) string {
	lines := strings.Split(string(p), "\n")
	if n > len(lines) {
		return ""
	}
	return strings.TrimSpace(lines[n-1])
}

func (p pidFile) ready() bool { return p.line(8) == "ready" }

// readyTCP says that it is not the server that an image's entrypoint starts
// for its own use, which listens on no address.
func (p pidFile) readyTCP() bool { return p.ready() && p.line(6) != "" }

// waitPidFile returns when ok accepts the pid file in dataDir, or ctx ends.
// The root filesystem of process pid is not trusted.
func waitPidFile(ctx context.Context, pid int, dataDir string, ok func(pidFile) bool) error {
	root := fmt.Sprintf("/proc/%d/root", pid)
	err := watchPidFile(ctx, root, dataDir, ok)
	if err == nil || ctx.Err() != nil {
		return err
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if r, err := rootfs.Open(root); err == nil {
			text, _ := r.ReadFile(dataDir+"/postmaster.pid", 4096) // not there yet
			r.Close()
			if ok(pidFile(text)) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchPidFile has inotify(7) wake it. An error other than ctx's says that
// this is not possible.
func watchPidFile(ctx context.Context, rootDir, dataDir string, ok func(pidFile) bool) error {
	root, err := rootfs.Open(rootDir)
	if err != nil {
		return err
	}
	defer root.Close()
	events, err := watchDir(root, dataDir)
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Now()) })
	defer stop()
	buf := make([]byte, 4096)
	for {
		text, err := root.ReadFile(dataDir+"/postmaster.pid", 4096)
		if err == nil && ok(pidFile(text)) {
			return nil
		}
		if _, err := events.Read(buf); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// watchDir returns a file that can be read when a file in dir has changed.
func watchDir(root *rootfs.Root, dir string) (*os.File, error) {
	d, err := root.Open(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", d.Fd()), unix.IN_CLOSE_WRITE|unix.IN_MODIFY)
	if err != nil {
		f.Close()
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return f, nil
}
