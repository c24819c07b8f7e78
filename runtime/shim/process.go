package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ctrsnap/ctrsnap/runtime/launch"
)

// process is a container's first process, or one that joins it.
type process struct {
	id                    string // "" for the first one
	spec                  *specs.Process
	stdin, stdout, stderr string
	terminal              bool
	exited                chan struct{} // closed when exit is known

	mu      sync.Mutex
	proc    *launch.Process // nil until started, for one that joins
	streams *streams
	started bool
	failed  bool // its start has failed: it never was
	exit    launch.Exit
}

func (p *process) uris(stdin, stdout, stderr string, terminal bool) {
	p.stdin, p.stdout, p.stderr, p.terminal = stdin, stdout, stderr, terminal
}

// pid is 0 for a process that was not started.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.PID
}

// start lets the first process run. The caller holds mu.
func (p *process) start() error {
	if p.started {
		return fmt.Errorf("container was started: %w", errdefs.ErrFailedPrecondition)
	}
	p.started = true
	return p.proc.Start()
}

// ended records the exit. The caller holds mu.
func (p *process) ended(e launch.Exit) { p.exit = e }

func (p *process) exitStatus() launch.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

func (p *process) hasEnded() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// status is the state as containerd names it.
func (p *process) status() task.Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.hasEnded() || p.failed:
		return task.Status_STOPPED
	case p.proc == nil || p.id == "" && !p.started:
		return task.Status_CREATED
	default:
		return task.Status_RUNNING
	}
}

// signal sends a signal; NotFound if the process has ended or was not started.
func (p *process) signal(sig unix.Signal) error {
	p.mu.Lock()
	proc := p.proc
	p.mu.Unlock()
	err := error(unix.ESRCH)
	if proc != nil && !p.hasEnded() {
		err = proc.Signal(sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("process has ended: %w", errdefs.ErrNotFound)
	}
	return err
}

// finish frees what a process holds that has ended. One that was made and not
// started is ended.
func (p *process) finish(ctx context.Context) error {
	switch p.status() {
	case task.Status_RUNNING:
		return fmt.Errorf("process is running: %w", errdefs.ErrFailedPrecondition)
	case task.Status_CREATED:
		if err := p.end(ctx); err != nil {
			return err
		}
	}
	p.free(ctx)
	return nil
}

// free closes the descriptors of a process that has ended, once its output is copied. It is idempotent.
func (p *process) free(ctx context.Context) {
	p.mu.Lock()
	proc, s := p.proc, p.streams
	p.mu.Unlock()
	if proc != nil {
		proc.Close()
		s.finish(ctx)
	}
}

func (p *process) end(ctx context.Context) error {
	p.mu.Lock()
	proc := p.proc
	p.mu.Unlock()
	if proc == nil {
		return nil
	}
	if err := p.signal(unix.SIGKILL); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// timestamp is nil for a process that never ran.
func timestamp(e launch.Exit) *timestamppb.Timestamp {
	if e.At.IsZero() {
		return nil
	}
	return protobuf.ToTimestamp(e.At)
}
