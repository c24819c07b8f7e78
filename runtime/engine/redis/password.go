package redis

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
)

var _ described.PasswordProtocol = protocol{}

// Verifier returns what ACL files keep of a password, see
// https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/.
func (protocol) Verifier(password string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(password)))
}

// OpenPassword logs in.
func (protocol) OpenPassword(ctx context.Context, dial func(context.Context) (net.Conn, error), login described.Login) (runtime.PasswordSession, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &passwordSession{conn, bufio.NewReader(io.LimitReader(conn, maxAnswers)), login.User}
	if err := s.do(ctx, "AUTH", login.User, login.Password); err != nil {
		_ = conn.Close() // the first error tells more
		return nil, err
	}
	return s, nil
}

// maxAnswers bounds what is read of a server, which is not trusted, in bytes.
const maxAnswers = 64 << 10

// answerTimeout bounds one answer of it.
const answerTimeout = 10 * time.Second

// passwordSession is a connection of the login whose password it changes.
type passwordSession struct {
	conn net.Conn
	r    *bufio.Reader
	user string
}

func (s *passwordSession) do(ctx context.Context, args ...string) error {
	if err := s.conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Now()) })
	defer stop()
	return command(s.conn, s.r, args)
}

// Set implements [runtime.PasswordSession].
func (s *passwordSession) Set(ctx context.Context, password runtime.Password) error {
	if err := s.do(ctx, "ACL", "SETUSER", s.user, "resetpass", "#"+password.Verifier); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	// A server that starts again has it from the file.
	if err := s.do(ctx, "ACL", "SAVE"); err != nil {
		return fmt.Errorf("keep password: %w", err)
	}
	return nil
}

// Close implements [runtime.PasswordSession].
func (s *passwordSession) Close() error { return s.conn.Close() }
