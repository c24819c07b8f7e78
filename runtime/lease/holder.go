package lease

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
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// lookInterval is how often a cgroup that holds a lease is looked at.
const lookInterval = time.Second

// Kinds of holders beside connections.
const (
	KindProcess = "pid"
	KindCgroup  = "cgroup"
)

// Holder is a process or a cgroup that holds a lease. Its text is kept with the clones, for [Book.Resume].
type Holder interface {
	fmt.Stringer
	// await returns when the holder is gone, or ctx ends.
	await(ctx context.Context)
}

// Find returns the holder that a caller names: a process by its number, or a cgroup, with a process in it, by its path.
// An error is InvalidArgument.
func (b *Book) Find(caller access.Caller, kind, text string) (Holder, error) {
	if caller.Remote != "" {
		return nil, snapshot.WithHint(
			fmt.Errorf("lease of %s %.40q: it is of this host, and the caller is not: %w", kind, text, errdefs.ErrInvalidArgument),
			"hold a lease by a connection, or give a ttl")
	}
	if kind == KindCgroup {
		g := cgroup{b.opts.CgroupRoot, path.Clean("/" + text)}
		if populated, err := g.populated(); err != nil || !populated {
			return nil, snapshot.WithHint(
				fmt.Errorf("lease of cgroup %.200q: no process is in it: %w", text, errdefs.ErrInvalidArgument),
				"give a path as in /proc/PID/cgroup")
		}
		return g, nil
	}
	pid, err := strconv.Atoi(text)
	if err != nil || pid < 1 {
		return nil, fmt.Errorf("lease of process %.40q: want a number: %w", text, errdefs.ErrInvalidArgument)
	}
	if caller.PID == 0 && !caller.IsRoot() { // their numbers are not ours
		return nil, fmt.Errorf("lease of process %d: the caller is in another PID namespace: %w", pid, errdefs.ErrInvalidArgument)
	}
	p := process{pid, startOf(pid)}
	if p.start == "" {
		return nil, fmt.Errorf("lease of process %d: there is none: %w", pid, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// parseHolder reads what a Holder's String returned; nil if it is none.
func (b *Book) parseHolder(text string) Holder {
	kind, rest, _ := strings.Cut(text, ":")
	switch kind {
	case KindCgroup:
		return cgroup{b.opts.CgroupRoot, rest}
	case KindProcess:
		n, start, _ := strings.Cut(rest, ":")
		if pid, err := strconv.Atoi(n); err == nil {
			return process{pid, start}
		}
	}
	return nil
}

// process is known by when it was started, too: its number may be given anew.
type process struct {
	pid   int
	start string // as startOf returns it
}

func (p process) String() string { return fmt.Sprintf("%s:%d:%s", KindProcess, p.pid, p.start) }

func (p process) await(ctx context.Context) {
	fd, err := unix.PidfdOpen(p.pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		p.poll(ctx)
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if startOf(p.pid) != p.start {
		return // another process has the number by now
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		p.poll(ctx)
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // it fails when the file is closed
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0
	})
}

// poll is for kernels before 5.10, which have no pidfd that can be waited for.
func (p process) poll(ctx context.Context) {
	for startOf(p.pid) == p.start && pause(ctx) {
	}
}

// startOf returns when a process was started, in the kernel's own count: with its number, that is one process only. ""
// says that there is none. See proc_pid_stat(5), the 22nd field.
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

// cgroup holds a lease while a process is in it, or below.
type cgroup struct {
	root string // where the cgroup filesystem is mounted
	path string // below it
}

func (g cgroup) String() string { return KindCgroup + ":" + g.path }

func (g cgroup) await(ctx context.Context) {
	for pause(ctx) {
		if populated, err := g.populated(); err == nil && !populated {
			return
		}
	}
}

// populated says whether a process is in the cgroup or below. In version 1 any hierarchy counts.
func (g cgroup) populated() (bool, error) {
	roots := []string{g.root}
	if more, err := filepath.Glob(filepath.Join(g.root, "*", "cgroup.procs")); err == nil {
		for _, file := range more {
			roots = append(roots, filepath.Dir(file))
		}
	}
	for _, root := range roots {
		if found, err := populatedBelow(root, g.path); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// populatedBelow looks in one hierarchy. No path leads out of it: see openat2(2).
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

// pause waits for the next look; false says that ctx has ended.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(lookInterval):
		return true
	case <-ctx.Done():
		return false
	}
}
