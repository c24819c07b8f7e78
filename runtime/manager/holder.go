package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// cgroupInterval is how often a cgroup that holds a lease is looked at.
const cgroupInterval = time.Second

// holder is what holds a lease beside a connection: a process, which is known by when it
// started, too, or a cgroup. It is kept with the clones as text, for the next daemon.
type holder struct {
	pid    int
	start  string
	cgroup string // path below the mount point
}

// holderOf reads what a request names, for who has sent it.
func (m *Manager) holderOf(who access.Caller, kind api.LeaseKind, text string) (holder, error) {
	if who.Remote != "" {
		return holder{}, snapshot.WithHint(fmt.Errorf("lease of %s %.40q: it is of this host, and the caller is not: %w", kind, text, errdefs.ErrInvalidArgument),
			"hold a lease by a connection, or give a ttl")
	}
	if kind == api.LeaseCgroup {
		h := holder{cgroup: path.Clean("/" + text)}
		if populated, err := m.populated(h.cgroup); err != nil || !populated {
			return h, snapshot.WithHint(fmt.Errorf("lease of cgroup %.200q: no process is in it: %w", text, errdefs.ErrInvalidArgument), "give a path as in /proc/PID/cgroup")
		}
		return h, nil
	}
	pid, err := strconv.Atoi(text)
	if err != nil || pid < 1 {
		return holder{}, fmt.Errorf("lease of process %.40q: want a number: %w", text, errdefs.ErrInvalidArgument)
	}
	if who.PID == 0 && !who.IsRoot() { // his numbers are not ours
		return holder{}, fmt.Errorf("lease of process %d: the caller is in another PID namespace: %w", pid, errdefs.ErrInvalidArgument)
	}
	h := holder{pid: pid, start: startOf(pid)}
	if h.start == "" {
		return h, fmt.Errorf("lease of process %d: there is none: %w", pid, errdefs.ErrInvalidArgument)
	}
	return h, nil
}

// String returns the form that parseHolder reads.
func (h holder) String() string {
	if h.cgroup != "" {
		return "cgroup:" + h.cgroup
	}
	return fmt.Sprintf("pid:%d:%s", h.pid, h.start)
}

func parseHolder(text string) (holder, bool) {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case "cgroup":
		return holder{cgroup: rest}, true
	case "pid":
		n, start, _ := strings.Cut(rest, ":")
		pid, err := strconv.Atoi(n)
		return holder{pid: pid, start: start}, err == nil
	}
	return holder{}, false
}

// startOf returns when a process was started, in the kernel's own count: with its
// number it is one process only. "" if it is none. See proc_pid_stat(5), the 22nd field.
func startOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])) // from the third on
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}

// holdBy holds a lease for as long as its holder is there. The caller holds mu.
func (m *Manager) holdBy(l *lease, h holder) {
	l.holders++
	m.wg.Go(func() {
		m.awaitEnd(h)
		if m.ctx.Err() == nil {
			m.release(l, 0)
		}
	})
}

// awaitEnd returns when the holder is gone, or the Manager closed.
func (m *Manager) awaitEnd(h holder) {
	if h.cgroup != "" {
		m.awaitEmpty(h.cgroup)
		return
	}
	fd, err := unix.PidfdOpen(h.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		m.awaitPID(h)
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if startOf(h.pid) != h.start {
		return // another process has the number by now
	}
	stop := context.AfterFunc(m.ctx, func() { f.Close() })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		m.awaitPID(h)
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // it fails when the file is closed
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
}

// awaitPID is for kernels before 5.10, which have no pidfd that can be waited for.
func (m *Manager) awaitPID(h holder) {
	for startOf(h.pid) == h.start && m.pause(cgroupInterval) {
	}
}

// awaitEmpty returns when no process is in a cgroup, or it is gone.
func (m *Manager) awaitEmpty(group string) {
	for m.pause(cgroupInterval) {
		if populated, err := m.populated(group); err == nil && !populated {
			return
		}
	}
}

func (m *Manager) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-m.ctx.Done():
		return false
	}
}

// populated says whether a process is in a cgroup or below. In version 1 any
// hierarchy counts. No path leads out: openat2(2).
func (m *Manager) populated(group string) (bool, error) {
	roots := []string{m.opts.CgroupRoot}
	if more, err := filepath.Glob(filepath.Join(m.opts.CgroupRoot, "*", "cgroup.procs")); err == nil {
		for _, file := range more {
			roots = append(roots, filepath.Dir(file))
		}
	}
	for _, root := range roots {
		if found, err := populatedBelow(root, group); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

func populatedBelow(root, group string) (found bool, err error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }() // it was only read
	err = fs.WalkDir(r.FS(), strings.TrimPrefix(path.Join(".", group), "/"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return ignoreGone(err)
		}
		procs, err := fs.ReadFile(r.FS(), path.Join(p, "cgroup.procs"))
		if len(strings.TrimSpace(string(procs))) > 0 {
			found = true
			return fs.SkipAll
		}
		return ignoreGone(err)
	})
	return found, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
