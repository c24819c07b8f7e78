package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// container is a container and its processes.
type container struct {
	id, bundle string
	filter     *seccomp.Filter
	cgroup     *cgroup.Group
	init       *process
	running    sync.WaitGroup // processes that joined

	mu     sync.Mutex
	execs  map[string]*process
	paused bool
}

// launch launches the first process. An error leaves nothing behind.
func (c *container) launch(ctx context.Context, l *launch.Launcher, spec *launch.Spec, r *taskapi.CreateTaskRequest) (err error) {
	undo := func() { err = errors.Join(err, c.cgroup.Remove(context.WithoutCancel(ctx))) }
	defer func() {
		if err != nil {
			undo()
		}
	}()
	spec.Process.Terminal = r.Terminal
	s, err := openStreams(r.Stdin, r.Stdout, r.Stderr, r.Terminal, spec.IDs(), spec.Process.User)
	if err != nil {
		return err
	}
	defer s.closeChild()
	proc, console, err := l.Create(launch.Config{
		ID: c.id, Bundle: c.bundle, Rootfs: mount.FromProto(r.Rootfs), Spec: spec,
		Filter: c.filter, Cgroup: c.cgroup, Stdio: s.child,
	})
	if err != nil {
		s.close()
		return err
	}
	s.attach(console)
	c.init = &process{spec: spec.Process, streams: s, proc: proc, exited: make(chan struct{})}
	c.init.uris(r.Stdin, r.Stdout, r.Stderr, r.Terminal)
	return nil
}

func (c *container) process(execID string) (*process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s of container %s: %w", execID, c.id, errdefs.ErrNotFound)
}

// add records a process that is to join.
func (c *container) add(id string, spec *specs.Process, r *taskapi.ExecProcessRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[id] != nil {
		return fmt.Errorf("process %s: %w", id, errdefs.ErrAlreadyExists)
	}
	p := &process{id: id, spec: spec, exited: make(chan struct{})}
	p.uris(r.Stdin, r.Stdout, r.Stderr, r.Terminal)
	c.execs[id] = p
	return nil
}

func (c *container) forget(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, p.id)
}

// startExec starts a process that was added. The caller holds p.mu.
func (c *container) startExec(l *launch.Launcher, p *process) error {
	if p.proc != nil || p.failed {
		return fmt.Errorf("process %s was started: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	select {
	case <-c.init.exited:
		return fmt.Errorf("container %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	default:
	}
	p.failed = true
	s, err := openStreams(p.stdin, p.stdout, p.stderr, p.terminal, c.init.proc.IDs(), p.spec.User)
	if err != nil {
		return err
	}
	defer s.closeChild()
	proc, console, err := l.Exec(c.init.proc, launch.Join{
		ID: c.id, Process: p.spec, Filter: c.filter, Cgroup: c.cgroup, Stdio: s.child,
	})
	if err != nil {
		s.close()
		return err
	}
	s.attach(console)
	c.running.Add(1)
	p.proc, p.streams, p.failed = proc, s, false
	return nil
}

// freeze stops or continues all processes.
func (c *container) freeze(on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	change := c.cgroup.Thaw
	if on {
		change = c.cgroup.Freeze
	}
	if err := change(); err != nil {
		return fmt.Errorf("freezer of container %s: %w", c.id, err)
	}
	c.paused = on
	return nil
}

func (c *container) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}
