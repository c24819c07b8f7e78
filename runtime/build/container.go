package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// sink takes what a process writes: to the build log, to whoever asked for
// it, and its last lines for an error.
type sink struct {
	command        string
	last           tail
	stdout, stderr *lineWriter
	stdio          runtime.Stdio
	failed         chan error // takes the first error of whoever takes what it writes
}

// watched tells of the first error of a writer. A process whose output is not taken would wait for ever.
type watched struct {
	io.Writer
	failed chan<- error
}

func (w watched) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		select {
		case w.failed <- err:
		default:
		}
	}
	return n, err
}

func (w *bench) newSink(p runtime.Process, stdio runtime.Stdio) *sink {
	s := &sink{command: command(p), failed: make(chan error, 1)}
	emit := func(lines string) { s.last.add(lines); w.out.log(lines) }
	s.stdout, s.stderr = &lineWriter{emit: emit}, &lineWriter{emit: emit}
	s.stdio = runtime.Stdio{
		Stdin:  stdio.Stdin,
		Stdout: tee(stdio.Stdout, s.stdout),
		Stderr: tee(stdio.Stderr, s.stderr),
	}
	if stdio.Stdout != nil && stdio.Stdout != stdio.Stderr {
		s.stdio.Stdout = stdio.Stdout // data: a dump, or roles with their passwords
	}
	s.stdio.Stdout, s.stdio.Stderr = watched{s.stdio.Stdout, s.failed}, watched{s.stdio.Stderr, s.failed}
	return s
}

func tee(asked io.Writer, log *lineWriter) io.Writer {
	if asked == nil {
		return log
	}
	return io.MultiWriter(asked, log)
}

// result is the outcome of the process, which writes no more.
func (s *sink) result(code int) error {
	s.stdout.Close()
	s.stderr.Close()
	select {
	case err := <-s.failed: // the process has not noticed
		return err
	default:
	}
	if code == 0 {
		return nil
	}
	return &runtime.ExitError{Command: s.command, Code: code, Output: s.last.String()}
}

// Run implements [runtime.Workbench].
func (w *bench) Run(ctx context.Context, p runtime.Process, opts runtime.RunOpts) (err error) {
	s := w.newSink(p, opts.Stdio)
	if err := w.take(s.command); err != nil {
		return err
	}
	netns := ""
	if opts.Reach.IsValid() {
		var back func(context.Context) error
		if netns, back, err = w.reach(ctx, opts.Reach); err != nil {
			w.holder = ""
			return fmt.Errorf("run %s: %w", s.command, err)
		}
		defer func() { err = errors.Join(err, back(ctx)) }()
	}
	exit, err := w.runToEnd(ctx, p, netns, s)
	// Removing the container drains its output and frees the root filesystem.
	if rerr := w.remove(ctx); err == nil {
		err = rerr
	}
	if err == nil {
		err = exit.Err
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", s.command, err)
	}
	return s.result(exit.Code)
}

func (w *bench) runToEnd(ctx context.Context, p runtime.Process, netns string, s *sink) (runtime.Exit, error) {
	// The wait ends with this function, also if the task cannot be killed.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_, exited, err := w.startTask(ctx, ctx, p, netns, s)
	if err != nil {
		return runtime.Exit{}, err
	}
	select {
	case exit := <-exited:
		return exit, ctx.Err()
	case err := <-s.failed:
		return runtime.Exit{}, err
	case <-ctx.Done():
		return runtime.Exit{}, ctx.Err()
	}
}

// startTask makes and starts the build's container; waitCtx bounds the wait. An
// error may leave the container: the caller removes it.
func (w *bench) startTask(ctx, waitCtx context.Context, p runtime.Process, netns string, s *sink) (runtime.Task, <-chan runtime.Exit, error) {
	if err := w.openSocketDir(p); err != nil {
		return nil, nil, fmt.Errorf("open socket directory: %w", err)
	}
	task, err := w.Runner.Create(ctx, w.container(p, netns, s))
	if err != nil {
		return nil, nil, err
	}
	exited, err := task.Wait(waitCtx)
	if err != nil {
		return nil, nil, err
	}
	return task, exited, task.Start(ctx)
}

// container describes the build's container. There is one at a time, so it has
// the build's own id.
func (w *bench) container(p runtime.Process, netns string, s *sink) runtime.Container {
	return runtime.Container{
		ID:       w.id,
		Rootfs:   func(context.Context) ([]mount.Mount, error) { return w.build.Mounts(), nil },
		Process:  p,
		NetNS:    netns,
		Hostname: w.id,
		Mounts: []specs.Mount{
			{
				Destination: runtime.SocketDir, Type: "bind", Source: w.dirs().Sockets(w.id),
				Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"},
			},
			{
				// Read-only: a container that could write here could plant links
				// for the engine, which writes here as root on the host.
				Destination: runtime.SourceDir, Type: "bind", Source: w.spoolDir(),
				Options: []string{"bind", "ro", "nosuid", "nodev"},
			},
		},
		Stdio:  &s.stdio,
		Labels: map[string]string{snapshot.LabelKind: snapshot.KindBuild},
		// No Snapshot: it is the Store's to keep until the build is closed.
	}
}

// openSocketDir opens the socket directory for a process that runs as root: it is an entrypoint that will become some
// other user, not known here. To any other process the runner gives it.
func (w *bench) openSocketDir(p runtime.Process) error {
	mode := os.FileMode(0o711)
	if p.UID == 0 {
		mode = 0o777 | os.ModeSticky
	}
	return os.Chmod(w.dirs().Sockets(w.id), mode)
}

// remove deletes the build's container, if there is one, and with it all that
// runs there. It works although ctx has ended.
func (w *bench) remove(ctx context.Context) error {
	ctx, cancel := undoContext(ctx)
	defer cancel()
	if err := w.Runner.Delete(ctx, w.id); err != nil {
		return fmt.Errorf("delete container %s: %w", w.id, err)
	}
	if w.server != nil {
		w.server.ended()
	}
	w.server = nil
	w.holder = ""
	return nil
}

// Serve implements [runtime.Workbench].
func (w *bench) Serve(ctx context.Context, p runtime.Process) (runtime.Service, error) {
	s := w.newSink(p, runtime.Stdio{})
	if err := w.take(s.command); err != nil {
		return nil, err
	}
	svc, err := w.serve(ctx, p, s)
	if err != nil {
		if rerr := w.remove(ctx); rerr != nil {
			err = fmt.Errorf("%w; undo: %v", err, rerr) //nolint:errorlint // the class of the undo's error does not count
		}
		return nil, fmt.Errorf("start %s: %w", s.command, err)
	}
	w.server = svc
	return svc, nil
}

func (w *bench) serve(ctx context.Context, p runtime.Process, s *sink) (*service, error) {
	if err := w.addNetwork(ctx); err != nil {
		return nil, err
	}
	// The server outlives the call, so does the wait.
	waitCtx, stopWait := context.WithCancel(context.WithoutCancel(ctx))
	task, exited, err := w.startTask(ctx, waitCtx, p, w.netns.Path, s)
	if err != nil {
		stopWait()
		return nil, err
	}
	svc := &service{bench: w, task: task, sink: s, stopWait: stopWait, died: make(chan struct{})}
	go svc.watch(waitCtx, exited)
	return svc, nil
}

// addNetwork makes the build's network namespace. All servers of the build
// use the same.
func (w *bench) addNetwork(ctx context.Context) error {
	if w.netns != nil {
		return nil
	}
	ns, err := w.Network.Add(ctx, w.id, network.Options{})
	if err != nil {
		return fmt.Errorf("add network namespace: %w", err)
	}
	w.netns = &ns
	return nil
}
