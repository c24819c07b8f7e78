package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// OutOfMemory says whether the kernel has killed a process of the group for want of memory.
func (g *Group) OutOfMemory() bool {
	name := "memory/memory.oom_control"
	if g.host.unified {
		name = "memory.events"
	}
	data, err := os.ReadFile(g.file(name))
	for line := range strings.Lines(string(data)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			return err == nil && strings.TrimSpace(n) != "0"
		}
	}
	return false
}

// WatchOOM calls fn whenever the group runs out of memory, until done is closed.
func (g *Group) WatchOOM(done <-chan struct{}, fn func()) error {
	if g.host.unified {
		return g.watch2(done, fn)
	}
	f, err := g.oomEvents()
	if err != nil {
		return err
	}
	defer f.Close()
	go func() {
		<-done
		f.Close()
	}()
	for count := make([]byte, 8); ; {
		if _, err := f.Read(count); err != nil {
			return nil // closed
		}
		fn()
	}
}

// oomEvents returns an eventfd that counts how often a group of version 1 was out of
// memory. See https://docs.kernel.org/admin-guide/cgroup-v1/memory.html, section 10.
func (g *Group) oomEvents() (*os.File, error) {
	dir := ""
	for name, d := range g.Dirs() {
		if slices.Contains(strings.Split(name, ","), "memory") {
			dir = d
		}
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer control.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) // which waits without a thread
	if err != nil {
		return nil, os.NewSyscallError("eventfd2", err)
	}
	f := os.NewFile(uintptr(fd), "oom events")
	line := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := write(filepath.Join(dir, "cgroup.event_control"), line); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (g *Group) watch2(done <-chan struct{}, fn func()) error {
	m, err := g.load2()
	if err != nil {
		return err
	}
	events, errs := m.EventChan()
	for seen := uint64(0); ; {
		select {
		case e := <-events:
			if e.OOMKill > seen {
				seen = e.OOMKill
				fn()
			}
		case err := <-errs:
			return err
		case <-done:
			return nil
		}
	}
}
