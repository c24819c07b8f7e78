package mariadb

import (
	"context"
	"crypto/sha1" //nolint:gosec // what the server keeps of a password
	"database/sql/driver"
	"fmt"
	"net"
	"strings"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
)

var _ described.PasswordProtocol = protocol{}

// Verifier returns what mysql.global_priv keeps of a password, see
// https://mariadb.com/kb/en/password/. MySQL is told the password.
func (p protocol) Verifier(password string) string {
	if !p.hash {
		return password
	}
	once := sha1.Sum([]byte(password)) //nolint:gosec // see above
	return fmt.Sprintf("*%X", sha1.Sum(once[:]))
}

// OpenPassword logs in. It may go on for as long as wait_timeout, eight hours, says.
func (p protocol) OpenPassword(ctx context.Context, dial func(context.Context) (net.Conn, error), login described.Login) (runtime.PasswordSession, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c, err := connect(ctx, conn, login)
	if err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return &passwordSession{c, p, dial, login}, nil
}

// passwordSession is a connection of the login whose password it changes: everybody may
// change his own.
type passwordSession struct {
	conn     driver.Conn
	protocol protocol
	dial     func(context.Context) (net.Conn, error)
	login    described.Login
}

var quote = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// Set implements [runtime.PasswordSession].
func (s *passwordSession) Set(ctx context.Context, password runtime.Password) error {
	sql := fmt.Sprintf("SET PASSWORD FOR '%s'@'%%' = '%s'", quote.Replace(s.login.User), quote.Replace(password.Verifier))
	if _, err := s.conn.(driver.ExecerContext).ExecContext(ctx, sql, nil); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	if s.protocol.hash {
		return nil
	}
	// MySQL remembers whoever has logged in. Until then it refuses clients that neither encrypt nor
	// ask for its key.
	conn, err := s.dial(ctx)
	if err != nil {
		return fmt.Errorf("log in by the new password: %w", err)
	}
	login := s.login
	login.Password = password.Text
	return s.protocol.Ask(ctx, conn, login)
}

// Close implements [runtime.PasswordSession].
func (s *passwordSession) Close() error { return s.conn.Close() }
