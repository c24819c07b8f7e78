// Package cgroup makes the control groups of containers, on hosts with version 2
// and with version 1 (also the hybrid form, which runc treats as version 1 too).
//
// Making one is on the path of every clone, so version 1 is done with as few
// writes as there can be; what is rare is containerd's library.
// See https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Unified is the name of the hierarchy of version 2 on a hybrid host. It has no
// controllers.
const Unified = "unified"

// Host is the cgroup filesystem of a host. It is safe for concurrent use.
type Host struct {
	root        string
	unified     bool
	hierarchies []hierarchy // of version 1
}

// hierarchy is a mounted hierarchy of version 1.
type hierarchy struct{ name, dir string }

// NewHost looks at the cgroup filesystem that is mounted at root.
func NewHost(root string) (*Host, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: root, Err: err}
	}
	h := &Host{root: root, unified: st.Type == unix.CGROUP2_SUPER_MAGIC}
	if h.unified {
		return h, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if err := unix.Statfs(dir, &st); err == nil && e.IsDir() && (st.Type == unix.CGROUP_SUPER_MAGIC || e.Name() == Unified) {
			h.hierarchies = append(h.hierarchies, hierarchy{e.Name(), dir})
		}
	}
	return h, nil
}

// Group is one cgroup: a directory, or one in each hierarchy of version 1.
type Group struct {
	host *Host
	path string
}

// Group returns the group at path, whether it exists or not.
func (h *Host) Group(path string) *Group { return &Group{host: h, path: path} }

// Reserve makes the directories of the group at path, which takes most of the time
// that Create does. Create completes it. An error may leave some.
func (h *Host) Reserve(path string) error {
	for _, dir := range h.Group(path).Dirs() {
		if err := makeDir(dir); err != nil {
			return fmt.Errorf("make cgroup %s: %w", path, err)
		}
	}
	return nil
}

// Create makes the group at path with limits. All devices but those that every
// container has are denied, whatever res says. An error leaves nothing behind.
func (h *Host) Create(ctx context.Context, path string, res *specs.LinuxResources) (_ *Group, err error) {
	g := h.Group(path)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make cgroup %s: %w", path, err), g.Remove(context.WithoutCancel(ctx)))
		}
	}()
	if h.unified {
		return g, g.createUnified(res)
	}
	for _, d := range h.hierarchies {
		dir := filepath.Join(d.dir, path)
		if err := makeDir(dir); err != nil {
			return nil, err
		}
		switch d.name {
		case "cpuset":
			err = inherit(dir)
		case "devices":
			err = allowDevices(dir)
		}
		if err != nil {
			return nil, err
		}
	}
	if res != nil {
		if memory, cpus, pids, ok := plain(res); ok {
			return g, g.setNew(memory, cpus, pids)
		}
	}
	return g, g.Update(res)
}

func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// inherit gives a new cpuset the processors and memory of the one above it: it
// takes no process before it has some.
func inherit(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		file := filepath.Join(dir, name)
		have, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(have)) != "" {
			continue
		}
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(above)) == "" {
			if err := inherit(filepath.Dir(dir)); err != nil {
				return err
			}
			if above, err = os.ReadFile(filepath.Join(filepath.Dir(dir), name)); err != nil {
				return err
			}
		}
		if err := write(file, string(above)); err != nil {
			return err
		}
	}
	return nil
}

func write(file, data string) error { return os.WriteFile(file, []byte(data), 0) }

// Unified says whether the host has version 2 only.
func (g *Group) Unified() bool { return g.host.unified }

// Path returns the path of the group in its hierarchies.
func (g *Group) Path() string { return g.path }

// Dirs are the directories of the group by the name of their hierarchy; for
// version 2 one with the name "".
func (g *Group) Dirs() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		if g.host.unified {
			yield("", filepath.Join(g.host.root, g.path))
			return
		}
		for _, d := range g.host.hierarchies {
			if !yield(d.name, filepath.Join(d.dir, g.path)) {
				return
			}
		}
	}
}

// Entrances opens the files by which a process that writes "0" enters the group. The
// caller closes them.
func (g *Group) Entrances() (files []*os.File, err error) {
	for _, dir := range g.Dirs() {
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Update sets limits that res has.
func (g *Group) Update(res *specs.LinuxResources) error {
	if res == nil || res.CPU == nil && res.Memory == nil && res.Pids == nil && res.BlockIO == nil {
		return nil
	}
	limits := *res
	limits.Devices = nil
	if g.host.unified {
		m, err := g.load2()
		if err != nil {
			return err
		}
		return m.Update(cgroup2.ToResources(&limits))
	}
	c, err := g.load1()
	if err != nil {
		return err
	}
	return c.Update(&limits)
}

// Stats returns containerd's metrics, those of version 1 or 2.
func (g *Group) Stats() (any, error) {
	if g.host.unified {
		m, err := g.load2()
		if err != nil {
			return nil, err
		}
		return m.Stat()
	}
	c, err := g.load1()
	if err != nil {
		return nil, err
	}
	return c.Stat(cgroup1.IgnoreNotExist)
}

// Freeze stops all processes of the group and Thaw lets them go on.
func (g *Group) Freeze() error { return g.freezer(true) }

// Thaw undoes Freeze.
func (g *Group) Thaw() error { return g.freezer(false) }

func (g *Group) freezer(freeze bool) error {
	var c interface {
		Freeze() error
		Thaw() error
	}
	var err error
	if g.host.unified {
		c, err = g.load2()
	} else {
		c, err = g.load1()
	}
	if err != nil {
		return err
	}
	if freeze {
		return c.Freeze()
	}
	return c.Thaw()
}

func (g *Group) load1() (cgroup1.Cgroup, error) { return cgroup1.Load(cgroup1.StaticPath(g.path)) }

func (g *Group) load2() (*cgroup2.Manager, error) {
	return cgroup2.Load(g.path, cgroup2.WithMountpoint(g.host.root))
}

// Pids returns the processes of the group.
func (g *Group) Pids() (pids []int, err error) {
	for name, dir := range g.Dirs() {
		if name != "" && name != "pids" && len(g.host.hierarchies) > 1 {
			continue
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return nil, err
		}
		for _, s := range strings.Fields(string(procs)) {
			pid, err := strconv.Atoi(s)
			if err != nil {
				return nil, fmt.Errorf("parse processes of cgroup %s: %w", g.path, err)
			}
			pids = append(pids, pid)
		}
		return pids, nil
	}
	return nil, nil
}

// Remove kills what is in the group and removes it. The kernel holds a directory
// busy until the last process in it is reaped, and tells nobody when. It is idempotent.
func (g *Group) Remove(ctx context.Context) error {
	var errs []error
	for _, dir := range g.Dirs() {
		errs = append(errs, remove(ctx, dir))
	}
	return errors.Join(errs...)
}

func remove(ctx context.Context, dir string) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return &os.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		kill(dir)
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dir, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

func kill(dir string) {
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return // removed meanwhile
	}
	for _, s := range strings.Fields(string(procs)) {
		if pid, err := strconv.Atoi(s); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
		}
	}
}
