package described

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// errDied ends a wait for a server that has ended.
var errDied = fmt.Errorf("the server has ended before it was ready: %w", errdefs.ErrUnavailable)

const (
	// pollInterval is how often a server that does not listen yet is tried. That costs
	// it nothing: its kernel refuses.
	pollInterval = time.Millisecond
	// execInterval is how often a command asks: each is a process.
	execInterval = 20 * time.Millisecond
	// answerTimeout bounds one answer of a server that takes connections.
	answerTimeout = 10 * time.Second
	// maxAnswer bounds what is read of one, in bytes.
	maxAnswer = 1 << 20
)

// Ready asks until the server answers.
func (e *Engine) Ready(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint, died <-chan struct{}) error {
	s, err := e.of(g)
	if err != nil {
		return err
	}
	if err := e.wait(ctx, s, ep, died); err != nil {
		return fmt.Errorf("wait for server of %s: %w", g.Ref(), err)
	}
	return nil
}

// Query asks once.
func (e *Engine) Query(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint) error {
	s, err := e.of(g)
	if err != nil {
		return err
	}
	if err := e.ask(ctx, s, ep); err != nil {
		return fmt.Errorf("query server of %s: %w", g.Ref(), err)
	}
	return nil
}

// wait asks until the server answers, or has died, or says why it never will.
func (e *Engine) wait(ctx context.Context, s served, ep runtime.Endpoint, died <-chan struct{}) error {
	interval := pollInterval
	if e.protocol == nil && len(s.d.Ready.Exec) > 0 {
		interval = execInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		err := e.ask(ctx, s, ep)
		if err == nil {
			return nil
		}
		select {
		case <-died:
			return errDied
		default:
		}
		if !dial.NotYet(err) && !errdefs.IsUnavailable(err) && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-died:
			return errDied
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// ask asks the server once: by its protocol, or as the description says.
func (e *Engine) ask(ctx context.Context, s served, ep runtime.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if e.protocol == nil && len(s.d.Ready.Exec) > 0 {
		return s.askExec(ctx, ep)
	}
	conn, err := s.dial(ctx, ep, e.protocol == nil && !s.d.Ready.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Now()) })
	defer stop()
	switch {
	case e.protocol != nil:
		return e.protocol.Ask(ctx, bounded{conn, io.LimitReader(conn, maxAnswer)}, s.login(ep))
	case s.d.Ready.HTTP != "":
		return s.askHTTP(ctx, conn)
	}
	return nil
}

// login is who a clone's user is.
func (s served) login(ep runtime.Endpoint) Login {
	l := Login{s.User, s.Passwd, s.DB}
	if ep.Password != "" {
		l.Password = ep.Password
	}
	return l
}

// bounded is a connection to a server that is not trusted.
type bounded struct {
	net.Conn
	r io.Reader
}

func (b bounded) Read(p []byte) (int, error) { return b.r.Read(p) }

// dial connects by the socket if there is one, unless the port is meant.
func (s served) dial(ctx context.Context, ep runtime.Endpoint, port bool) (net.Conn, error) {
	if path := s.socket(ep.SocketDir); path != "" && !port {
		return dial.Socket(ctx, path)
	}
	return dial.TCP(ctx, ep, s.d.Server.Port)
}

// askHTTP is content with 2xx and 3xx. Whatever else is said may change.
func (s served) askHTTP(ctx context.Context, conn net.Conn) error {
	path, err := s.fields().expand(s.d.Ready.HTTP)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:"+strconv.Itoa(s.d.Server.Port)+path, nil)
	if err != nil {
		return err
	}
	req.Close = true
	if err := req.Write(conn); err != nil {
		return notYet(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, maxAnswer)), req)
	if err != nil {
		return notYet(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return notYet(fmt.Errorf("%s: %s", path, resp.Status))
	}
	return nil
}

func notYet(err error) error { return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable) }

func (s served) askExec(ctx context.Context, ep runtime.Endpoint) error {
	if ep.Exec == nil {
		return fmt.Errorf("no way to run %s: %w", s.d.Ready.Exec[0], errdefs.ErrInternal)
	}
	p, err := s.process(s.fields(), s.d.Ready.Exec, nil)
	if err != nil {
		return err
	}
	code, err := ep.Exec(ctx, p)
	if err == nil && code != 0 {
		err = notYet(fmt.Errorf("%s: exit code %d", s.d.Ready.Exec[0], code))
	}
	return err
}
