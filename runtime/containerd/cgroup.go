package containerd

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is the cgroup filesystem of the host, version 1 or 2.
// See https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/memory.html.
type cgroups struct {
	root    string
	unified bool // version 2 only; a hybrid host counts as version 1, as for runc
}

func newCgroups(root string) cgroups {
	var st unix.Statfs_t
	err := unix.Statfs(root, &st)
	return cgroups{root: root, unified: err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC}
}

// memory returns anonymous and shared memory of cgroup path, in bytes.
func (c cgroups) memory(path string) (int64, error) {
	dir, keys := filepath.Join(c.root, "memory", path), [2]string{"total_rss", "total_shmem"}
	if c.unified {
		dir, keys = filepath.Join(c.root, path), [2]string{"anon", "shmem"}
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	var sum int64
	for s := bufio.NewScanner(bytes.NewReader(stat)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), " ")
		if key != keys[0] && key != keys[1] {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse %s of memory.stat: %w", key, err)
		}
		sum += n
	}
	return sum, nil
}

// remove kills what is in cgroup path and removes it. It does nothing where
// runc has done so.
func (c cgroups) remove(ctx context.Context, path string) error {
	var errs []error
	dirs := c.dirs(path)
	for _, dir := range dirs {
		thaw(dir)
	}
	for _, dir := range dirs {
		errs = append(errs, removeCgroup(ctx, dir))
	}
	return errors.Join(errs...)
}

// dirs returns the directories of cgroup path that exist: one per hierarchy.
func (c cgroups) dirs(path string) []string {
	hierarchies := []string{c.root}
	if !c.unified {
		entries, err := os.ReadDir(c.root)
		if err != nil {
			return nil
		}
		hierarchies = nil
		for _, e := range entries {
			if e.IsDir() { // the others are links to joint hierarchies
				hierarchies = append(hierarchies, filepath.Join(c.root, e.Name()))
			}
		}
	}
	var dirs []string
	for _, h := range hierarchies {
		if _, err := os.Stat(filepath.Join(h, path)); err == nil {
			dirs = append(dirs, filepath.Join(h, path))
		}
	}
	return dirs
}

// removeCgroup kills and removes until the directory is gone: the kernel holds
// it busy until the last process in it is reaped, and tells nobody when.
func removeCgroup(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		killAll(dir)
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dir, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// thaw lets what is frozen in a cgroup of version 1 die: in version 2 it does so anyway. See
// https://docs.kernel.org/admin-guide/cgroup-v1/freezer-subsystem.html.
func thaw(dir string) {
	f, err := os.OpenFile(filepath.Join(dir, "freezer.state"), os.O_WRONLY, 0)
	if err != nil {
		return // of another hierarchy
	}
	_, _ = f.WriteString("THAWED") // removing it says what is wrong
	_ = f.Close()
}

func killAll(dir string) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return // removed meanwhile
	}
	for _, p := range strings.Fields(string(procs)) {
		if pid, err := strconv.Atoi(p); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
		}
	}
}

// children returns the names of the cgroups right below path.
func (c cgroups) children(path string) ([]string, error) {
	var names []string
	for _, dir := range c.dirs(path) {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// prune removes cgroup path where nothing is in it or below it.
func (c cgroups) prune(path string) error {
	var errs []error
	for _, dir := range c.dirs(path) {
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, &os.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	return errors.Join(errs...)
}
