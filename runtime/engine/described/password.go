package described

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// SetsPasswords implements [runtime.PasswordSetter]: by the protocol, or by the command
// of the description.
func (e *Engine) SetsPasswords(g snapshot.Golden) bool {
	s, err := e.of(g)
	if err != nil || s.User == "" {
		return false
	}
	_, ok := e.protocol.(PasswordProtocol)
	return ok || len(s.d.Password.Args) > 0
}

// NewPassword implements [runtime.PasswordSetter].
func (e *Engine) NewPassword() (runtime.Password, error) {
	p := runtime.Password{Text: rand.Text()}
	p.Verifier = p.Text
	if protocol, ok := e.protocol.(PasswordProtocol); ok {
		p.Verifier = protocol.Verifier(p.Text)
	}
	return p, nil
}

// OpenPassword implements [runtime.PasswordSetter].
func (e *Engine) OpenPassword(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint) (runtime.PasswordSession, error) {
	s, err := e.of(g)
	if err != nil {
		return nil, err
	}
	protocol, ok := e.protocol.(PasswordProtocol)
	if !ok {
		return commandSession{s, ep}, nil
	}
	dial := func(ctx context.Context) (net.Conn, error) { return s.dial(ctx, ep, !s.d.Ready.Socket) }
	session, err := protocol.OpenPassword(ctx, dial, s.login(ep))
	if err != nil {
		return nil, fmt.Errorf("connect to set a password: %w", err)
	}
	return session, nil
}

// commandSession sets a password by the command of the description.
type commandSession struct {
	s  served
	ep runtime.Endpoint
}

// Set implements [runtime.PasswordSession].
func (c commandSession) Set(ctx context.Context, password runtime.Password) error {
	f := c.s.fields()
	f.NewPassword = password.Verifier
	p, err := c.s.process(f, c.s.d.Password.Args, c.s.d.Password.Env)
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	if c.ep.Exec == nil {
		return fmt.Errorf("set password: no way to run %s: %w", p.Args[0], errdefs.ErrInternal)
	}
	code, err := c.ep.Exec(ctx, p)
	if err == nil && code != 0 {
		err = fmt.Errorf("%s of engine %s: exit code %d: %w", p.Args[0], c.s.d.Name, code, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}

// Close has nothing to close.
func (commandSession) Close() error { return nil }
