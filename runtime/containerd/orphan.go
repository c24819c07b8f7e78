package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// ShimIDs lists the shims of the containerd at address by the id that each was started
// for, a container's or a sandbox's. A process that dies while it starts a shim leaves
// one that nobody knows: containerd finds shims by what it wrote down when they had
// started.
func ShimIDs(address string) ([]string, error) {
	shims, err := findShims(address)
	ids := slices.Collect(maps.Values(shims))
	slices.Sort(ids)
	return slices.Compact(ids), err
}

// KillShims kills the shims of an id, if there are any.
func KillShims(id, address string) error {
	shims, err := findShims(address)
	errs := []error{err}
	for pid, of := range shims {
		if of == id {
			errs = append(errs, killShim(pid, id, address))
		}
	}
	return errors.Join(errs...)
}

// Cgroups lists the containers that there are cgroups of.
func (r *Runner) Cgroups() ([]string, error) { return r.cgroup.children(r.opts.CgroupPath) }

// RemoveCgroup kills what is in a container's cgroup, and removes it.
func (r *Runner) RemoveCgroup(ctx context.Context, id string) error {
	return r.cgroup.remove(ctx, path.Join(r.opts.CgroupPath, id))
}

// LooseFIFOs lists the directories of fifos that this process is not the other end of: an earlier one was.
func (r *Runner) LooseFIFOs() ([]string, error) {
	r.fifoDirs.Lock() // none is being made
	defer r.fifoDirs.Unlock()
	dirs, err := os.ReadDir(r.opts.FIFODir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list fifos: %w", err)
	}
	var loose []string
	for _, d := range dirs {
		if path := filepath.Join(r.opts.FIFODir, d.Name()); !r.fifoDirs.open[path] {
			loose = append(loose, path)
		}
	}
	return loose, nil
}

// findShims returns the ids of running shims by process.
func findShims(address string) (map[int]string, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	shims := map[int]string{}
	for _, path := range paths {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			continue
		}
		if id := shimID(pid, address); id != "" {
			shims[pid] = id
		}
	}
	return shims, nil
}

// shimID returns the id that process pid serves if it is a shim in our namespace
// of the containerd at address: shims are told so by flags
// (https://github.com/containerd/containerd/blob/main/core/runtime/v2/README.md).
func shimID(pid int, address string) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "" // it has ended
	}
	args := strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
	flag := func(name string) string {
		if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	if !strings.Contains(filepath.Base(args[0]), "shim") || flag("-namespace") != snapshot.Namespace || flag("-address") != address {
		return ""
	}
	return flag("-id")
}

// shimEnds bounds the wait for the end of a shim that was killed.
const shimEnds = 10 * time.Second

// killShim kills a process if it still is the shim of id, and waits until it has ended: its socket is dead then.
func killShim(pid int, id, address string) error {
	fd, err := unix.PidfdOpen(pid, 0) // from here on it is one process
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find shim %s: %w", id, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if shimID(pid, address) != id {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill shim %s: %w", id, err)
	}
	// See pidfd_open(2): it can be read when the process has ended.
	for end := time.Now().Add(shimEnds); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(0, time.Until(end)).Milliseconds()))
		if err == nil && n == 0 {
			return fmt.Errorf("kill shim %s: process %d has not ended after %s", id, pid, shimEnds)
		}
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
