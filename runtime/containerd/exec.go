package containerd

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// Exit codes of a process that never came to be, as shells have them.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// Exec runs p in the container. A program that is not there or cannot be
// executed is exit code 127 or 126 with a line on stderr, as in a shell. When
// ctx ends, the process is killed. The copying of Stdin ends with the process,
// at the latest when its pending Read returns. On a terminal the end of Stdin
// hangs up.
func (t *task) Exec(ctx context.Context, p runtime.Process, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error) {
	ctx, cancel := context.WithCancel(withNamespace(ctx))
	defer cancel()
	s := t.runner.fifos(stdio, p.Terminal)
	proc, err := t.addExec(ctx, p, s)
	if err != nil {
		return 0, fmt.Errorf("exec in %s: %w", t.ID(), err)
	}
	drained := true
	defer func() { t.endExec(ctx, proc, s, drained) }()
	exit, err := proc.Wait(ctx)
	if err != nil {
		return 0, fmt.Errorf("wait for exec in %s: %w", t.ID(), err)
	}
	if err := t.startExec(ctx, proc); err != nil {
		return startFailed(err, p, stdio, t.ID())
	}
	s.closeStdin(ctx, proc)
	go resize(ctx, proc, size)
	select {
	case status := <-exit:
		if status.Error() != nil {
			return 0, fmt.Errorf("wait for exec in %s: %w", t.ID(), status.Error())
		}
		drained = s.drain(ctx)
		return int(status.ExitCode()), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("exec in %s: %w", t.ID(), ctx.Err())
	}
}

// addExec and startExec are not cut short when ctx ends: a process that has
// started unnoticed could not be killed.
func (t *task) addExec(ctx context.Context, p runtime.Process, s *streams) (client.Process, error) {
	ctx, cancel := t.runner.begin(context.WithoutCancel(ctx))
	defer cancel()
	return t.task.Exec(ctx, "e"+strings.ToLower(rand.Text()), process(p), s.create)
}

func (t *task) startExec(ctx context.Context, proc client.Process) error {
	ctx, cancel := t.runner.begin(context.WithoutCancel(ctx))
	defer cancel()
	return proc.Start(ctx)
}

// endExec kills the process if it lives and removes what the shim and we hold.
// The shim waits for the end of output that a descendant holds open as long as
// we let it.
func (t *task) endExec(ctx context.Context, proc client.Process, s *streams, drained bool) {
	ctx, cancel := t.runner.begin(context.WithoutCancel(ctx))
	defer cancel()
	if !drained {
		ctx, cancel = context.WithTimeout(ctx, t.runner.opts.drainPeriod)
		defer cancel()
	}
	_, err := proc.Delete(ctx, client.WithProcessKill)
	s.close()
	if err != nil && !errdefs.IsNotFound(err) { // else the container has gone meanwhile, and the process with it
		go t.endLater(proc)
	}
}

// endLater tries again to end a process and to have the shim forget it, which a busy host has not done in time.
func (t *task) endLater(proc client.Process) {
	var err error
	for wait := time.Second; wait < time.Minute; wait *= 2 {
		<-time.After(wait)
		ctx, cancel := t.runner.begin(context.Background())
		_, err = proc.Delete(ctx, client.WithProcessKill)
		cancel()
		if err == nil || errdefs.IsNotFound(err) {
			return
		}
	}
	t.runner.opts.Logger.Warn("remove exec", "id", t.ID(), "error", err)
}

// startFailed tells a program that cannot run from a container that cannot run
// programs. runc has words for it only, no codes.
func startFailed(err error, p runtime.Process, stdio runtime.Stdio, id string) (int, error) {
	code, why := 0, ""
	switch msg := err.Error(); {
	case strings.Contains(msg, "executable file not found"), strings.Contains(msg, "no such file or directory"):
		code, why = codeNotFound, "not found"
	case strings.Contains(msg, "permission denied"), strings.Contains(msg, "exec format error"), strings.Contains(msg, "is a directory"):
		code, why = codeNotExecutable, "cannot be executed"
	default:
		return 0, fmt.Errorf("exec in %s: %w", id, err)
	}
	w := stdio.Stderr
	if w == nil || p.Terminal {
		w = stdio.Stdout
	}
	if w != nil {
		_, _ = io.WriteString(w, p.Args[0]+": "+why+"\n") // whoever reads it has gone
	}
	return code, nil
}

// resize passes sizes on until the channel is closed or ctx ends.
func resize(ctx context.Context, p client.Process, size <-chan runtime.WindowSize) {
	for {
		select {
		case s, ok := <-size:
			if !ok {
				return
			}
			_ = p.Resize(ctx, uint32(s.Cols), uint32(s.Rows)) // a process that has ended has no size
		case <-ctx.Done():
			return
		}
	}
}
