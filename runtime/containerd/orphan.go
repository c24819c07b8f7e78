package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// RemoveOrphans kills shims of the containerd at address whose container or
// sandbox is not recorded, and returns how many there were. A process that dies
// while it starts a shim leaves one that nobody knows: containerd finds shims
// by what it wrote down when they had started. It is to be called at start,
// before containers are made.
func (r *Runner) RemoveOrphans(ctx context.Context, address string) (int, error) {
	ctx, cancel := r.begin(ctx)
	defer cancel()
	shims, err := findShims(address) // before the records: what starts later has one
	if err != nil || len(shims) == 0 {
		return 0, err
	}
	known := map[string]bool{}
	containers, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return 0, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		known[c.ID] = true
	}
	sandboxes, err := r.client.SandboxStore().List(ctx)
	if err != nil {
		return 0, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		known[s.ID] = true
	}
	n := 0
	var errs []error
	for pid, id := range shims {
		if known[id] {
			continue
		}
		n++
		errs = append(errs, killShim(pid, id, address))
	}
	return n, errors.Join(errs...)
}

// RemoveFIFOs removes the fifos that an earlier process was the other end of. It is to be
// called at start, before containers are made.
func (r *Runner) RemoveFIFOs() (int, error) {
	dirs, err := os.ReadDir(r.opts.FIFODir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("list fifos: %w", err)
	}
	var errs []error
	for _, d := range dirs {
		errs = append(errs, os.RemoveAll(filepath.Join(r.opts.FIFODir, d.Name())))
	}
	return len(dirs), errors.Join(errs...)
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

// killShim kills a process if it still is the shim of id.
func killShim(pid int, id, address string) error {
	p, err := os.FindProcess(pid) // a pidfd: from here on it is one process
	if err != nil {
		return fmt.Errorf("find shim %s: %w", id, err)
	}
	defer p.Release() //nolint:errcheck // it has nothing to say
	if shimID(pid, address) != id {
		return nil
	}
	if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill shim %s: %w", id, err)
	}
	return nil
}
