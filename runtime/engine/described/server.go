package described

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// start starts the server, waits until it is ready, and makes the login.
func (b *build) start(ctx context.Context) error {
	b.wb.Step("start server")
	how := b.e.d
	p, err := b.st.server(how.Server.BuildArgs, merge(how.Settings.Build, b.src.Settings))
	if err != nil {
		return err
	}
	if b.svc, err = b.wb.Serve(ctx, p); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	// The login may come with Build.Login: before it only a connection can be asked for.
	asked := b.e
	if len(how.Build.Login) > 0 {
		asked = &Engine{d: how}
	}
	err = asked.wait(wait, b.st, b.endpoint(), b.svc.Died())
	if errors.Is(err, errDied) {
		return b.diedError(ctx)
	}
	return err
}

// endpoint is the server's, with a way to run commands beside it.
func (b *build) endpoint() runtime.Endpoint {
	ep := b.svc.Endpoint()
	ep.Exec = func(ctx context.Context, p runtime.Process) (int, error) {
		err := b.svc.Exec(ctx, p, runtime.Stdio{})
		var exit *runtime.ExitError
		if errors.As(err, &exit) {
			return exit.Code, nil
		}
		return 0, err
	}
	return ep
}

// endTimeout is how long a server may take to end that refuses its settings when it listens
// already.
const endTimeout = 5 * time.Second

// ends says whether the server has ended, or is about to.
func (b *build) ends(ctx context.Context) bool {
	wait, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	select {
	case <-b.svc.Died():
		return true
	case <-wait.Done():
		return false
	}
}

// diedError says why the server ended, in its own words.
func (b *build) diedError(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout(b.e.d))
	defer cancel()
	err := b.svc.Stop(ctx, syscall.SIGKILL)
	b.svc = nil
	var exit *runtime.ExitError
	if !errors.As(err, &exit) {
		return errors.Join(errDied, err)
	}
	var class error = errdefs.ErrFailedPrecondition
	if len(b.src.Settings) > 0 || b.loaded {
		class = errdefs.ErrInvalidArgument
	}
	return fmt.Errorf("server: exit code %d: %s: %w", exit.Code, last(exit.Output), class)
}

// last returns the last lines of what a program wrote.
func last(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-6):], "\n")
}

// kill ends a server that a failed build leaves.
func (b *build) kill(ctx context.Context) error {
	if b.svc == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout(b.e.d))
	defer cancel()
	err := b.svc.Stop(ctx, syscall.SIGKILL)
	b.svc = nil
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		return nil // of the signal
	}
	return err
}

// stop shuts the server down as the description says, and checks how it ended.
func (b *build) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout(b.e.d))
	defer cancel()
	err := b.svc.Stop(ctx, unix.SignalNum("SIG"+b.e.d.Server.StopSignal))
	b.svc = nil
	code := 0
	var exit *runtime.ExitError
	if errors.As(err, &exit) {
		code, err = exit.Code, nil
	}
	if err != nil {
		return fmt.Errorf("shut down server: %w", err)
	}
	if code != b.e.d.Server.ExitCode {
		return fmt.Errorf("shut down server: exit code %d: %s: %w", code, last(exitOutput(exit)), errdefs.ErrDataLoss)
	}
	return nil
}

func exitOutput(e *runtime.ExitError) string {
	if e == nil {
		return ""
	}
	return e.Output
}
