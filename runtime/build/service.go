package build

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// service is a server that runs in the build's container.
type service struct {
	bench    *bench
	task     runtime.Task
	sink     *sink
	stopWait context.CancelFunc
	exit     runtime.Exit  // set when died is closed
	died     chan struct{} // the process has ended, or its container is deleted

	stop    sync.Once
	stopErr error
}

var _ runtime.Service = (*service)(nil)

func (s *service) watch(ctx context.Context, exited <-chan runtime.Exit) {
	defer close(s.died)
	select {
	case s.exit = <-exited:
	case <-ctx.Done():
		s.exit.Err = ctx.Err()
	}
}

// ended is called when the container is gone.
func (s *service) ended() {
	s.stopWait()
	<-s.died
}

// Endpoint implements [runtime.Service].
func (s *service) Endpoint() runtime.Endpoint {
	var addr netip.Addr
	if addrs := s.bench.netns.Addrs; len(addrs) > 0 {
		addr = addrs[0]
	}
	return runtime.Endpoint{SocketDir: s.bench.dirs().Sockets(s.bench.id), Addr: addr, PID: s.task.PID()}
}

// Died implements [runtime.Service].
func (s *service) Died() <-chan struct{} { return s.died }

// Exec implements [runtime.Service].
func (s *service) Exec(ctx context.Context, p runtime.Process, stdio runtime.Stdio) error {
	out := s.bench.newSink(p, stdio)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-out.failed:
			cancel(err)
		case <-ctx.Done():
		}
	}()
	code, err := s.task.Exec(ctx, p, out.stdio, nil)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", out.command, err)
	}
	return out.result(code)
}

// Stop implements [runtime.Service].
func (s *service) Stop(ctx context.Context, sig syscall.Signal) error {
	s.stop.Do(func() {
		if s.stopErr = s.end(ctx, sig); s.stopErr != nil {
			s.stopErr = fmt.Errorf("stop server: %w", s.stopErr)
		}
	})
	return s.stopErr
}

func (s *service) end(ctx context.Context, sig syscall.Signal) error {
	err := s.task.Signal(ctx, sig)
	if errdefs.IsNotFound(err) {
		err = nil // it has ended already
	}
	if err == nil {
		err = s.wait(ctx)
	}
	if rerr := s.bench.remove(ctx); err == nil {
		err = rerr
	}
	if err == nil {
		err = s.exit.Err
	}
	if err != nil {
		return err
	}
	return s.sink.result(s.exit.Code)
}

func (s *service) wait(ctx context.Context) error {
	select {
	case <-s.died:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
