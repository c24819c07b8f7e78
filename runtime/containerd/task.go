package containerd

import (
	"context"
	"fmt"
	"path"
	"syscall"

	"github.com/containerd/containerd/v2/client"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// task is a [runtime.Task].
type task struct {
	runner  *Runner
	task    client.Task
	streams *streams // nil if this process does not copy them
}

var _ runtime.Task = (*task)(nil)

func (t *task) ID() string { return t.task.ID() }

func (t *task) PID() int { return int(t.task.Pid()) }

// Start starts the container's first process. Its Stdin is copied until ctx
// ends, or the process.
func (t *task) Start(ctx context.Context) error {
	octx, cancel := t.runner.begin(ctx)
	defer cancel()
	if err := t.task.Start(octx); err != nil {
		return fmt.Errorf("start task %s: %w", t.ID(), err)
	}
	if t.streams != nil {
		t.streams.closeStdin(ctx, t.task)
	}
	return nil
}

// Wait waits until ctx ends. The exit of a container with Stdio is told when
// all its output is written.
func (t *task) Wait(ctx context.Context) (<-chan runtime.Exit, error) {
	ctx = withNamespace(ctx)
	statuses, err := t.task.Wait(ctx)
	if err != nil {
		return nil, fmt.Errorf("wait for task %s: %w", t.ID(), err)
	}
	exits := make(chan runtime.Exit, 1)
	go func() {
		s := <-statuses
		if s.Error() == nil {
			t.streams.drain(ctx)
		}
		exits <- runtime.Exit{Code: int(s.ExitCode()), At: s.ExitTime(), Err: s.Error()}
	}()
	return exits, nil
}

// Signal sends sig to the first process; NotFound if it has ended.
func (t *task) Signal(ctx context.Context, sig syscall.Signal) error {
	ctx, cancel := t.runner.begin(ctx)
	defer cancel()
	if err := t.task.Kill(ctx, sig); err != nil {
		return fmt.Errorf("signal task %s: %w", t.ID(), err)
	}
	return nil
}

// Memory returns anonymous and shared memory of the container's cgroup: on the
// unified hierarchy anon + shmem, else total_rss + total_shmem. It is read from the
// cgroup itself, for containerd's metrics of cgroup v1 lack shared memory, which
// is what a database's buffers are. One read of one file, without the shim.
func (t *task) Memory(ctx context.Context) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	n, err := t.runner.cgroup.memory(path.Join(t.runner.opts.CgroupPath, t.ID()))
	if err != nil {
		return 0, fmt.Errorf("read memory of task %s: %w", t.ID(), err)
	}
	return n, nil
}
