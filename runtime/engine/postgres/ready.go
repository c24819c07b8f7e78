package postgres

import (
	"context"
	"errors"
	"fmt"
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

// Ready waits until the server says in its pid file that it takes connections: from
// then on none is refused. To try would fork a backend each time and slow the boot.
func (*Engine) Ready(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint, died <-chan struct{}) error {
	s, err := stateOf(g)
	if err != nil {
		return err
	}
	ctx, stop := untilDied(ctx, died)
	defer stop()
	caches := s.RelCache
	if ep.Again { // they are of catalogs that may have changed
		caches = nil
	}
	if err := waitBoot(ctx, ep.PID, s.DataDir, caches, pidFile.ready); err != nil {
		return fmt.Errorf("wait for server of %s: %w", g.Ref(), cause(ctx, err))
	}
	return nil
}

// Query connects by the socket.
func (*Engine) Query(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint) error {
	s, err := stateOf(g)
	if err != nil {
		return err
	}
	if err := s.probe(ctx, ep.SocketDir); err != nil {
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

const pidFileName = "postmaster.pid"

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
	return waitBoot(ctx, pid, dataDir, nil, ok)
}

// waitBoot is waitPidFile, and puts relation caches in dirs of the data directory
// back meanwhile.
func waitBoot(ctx context.Context, pid int, dataDir string, dirs []string, ok func(pidFile) bool) error {
	root, err := rootfs.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err == nil {
		defer root.Close()
		err = watchBoot(ctx, pid, root, dataDir, dirs, ok)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, errRelCache) {
		return err
	}
	return pollPidFile(ctx, pid, dataDir, ok)
}

// pollPidFile looks again and again. Without a file descriptor left it gives up: it could not see the server's word,
// and a caller that waits for it holds some.
func pollPidFile(ctx context.Context, pid int, dataDir string, ok func(pidFile) bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		text, err := readPidFileOf(pid, dataDir)
		if err != nil || ok(text) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watchBoot has inotify(7) wake it. An error other than ctx's says that this is not
// possible, or is errRelCache.
func watchBoot(ctx context.Context, pid int, root *rootfs.Root, dataDir string, dirs []string, ok func(pidFile) bool) error {
	w, err := newWatch()
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := w.add(root, dataDir, unix.IN_CLOSE_WRITE|unix.IN_MODIFY); err != nil {
		return err
	}
	caches, err := w.addCaches(pid, root, dataDir, dirs)
	defer caches.close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, w.stop)
	defer stop()
	for {
		text, err := readPidFile(root, dataDir)
		if err != nil || ok(text) {
			return err
		}
		for told := false; !told; { // of what happens to other files, too
			events, err := w.read()
			if err != nil {
				return errors.Join(ctx.Err(), err)
			}
			for _, e := range events {
				told = told || e.name == pidFileName
				if e.name != relCache {
					continue
				}
				if err := caches.restore(e.dir); err != nil {
					return err
				}
			}
		}
	}
}

// readPidFileOf is readPidFile in the root filesystem of a process.
func readPidFileOf(pid int, dataDir string) (pidFile, error) {
	r, err := rootfs.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return "", ifExhausted(err)
	}
	defer r.Close()
	return readPidFile(r, dataDir)
}

// readPidFile returns "" if there is none yet. Its errors are those of ifExhausted.
func readPidFile(root *rootfs.Root, dataDir string) (pidFile, error) {
	text, err := root.ReadFile(dataDir+"/"+pidFileName, 4096)
	return pidFile(text), ifExhausted(err)
}

// ifExhausted is an error only if it says that no file can be opened.
func ifExhausted(err error) error {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return err
	}
	return nil
}
