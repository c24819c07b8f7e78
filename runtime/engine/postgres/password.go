package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

var _ runtime.PasswordSetter = (*Engine)(nil)

// scramIterations is the server's own default, and what its clients expect.
const scramIterations = 4096

// SetsPasswords is true: each golden has a superuser.
func (*Engine) SetsPasswords(snapshot.Golden) bool { return true }

// NewPassword makes a password with its SCRAM verifier: the iterated hash is
// most of what setting a password costs, and is done ahead.
func (*Engine) NewPassword() (runtime.Password, error) {
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails, see its documentation
	text := newPassword()
	verifier, err := scramVerifier(text, salt, scramIterations)
	if err != nil {
		return runtime.Password{}, fmt.Errorf("make password: %w", err)
	}
	return runtime.Password{Text: text, Verifier: verifier}, nil
}

// scramVerifier returns what pg_authid keeps of an ASCII password: the keys of
// RFC 5802, section 3, by SHA-256 (RFC 7677), in the form of RFC 5803. See
// https://www.postgresql.org/docs/current/catalog-pg-authid.html.
func scramVerifier(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// passwordSession is a superuser's connection.
type passwordSession struct {
	conn *pgconn.PgConn
	role string
}

// OpenPassword connects by the server's socket as a superuser, and changes the
// password in a transaction that it takes back: the second time is fast. Others
// that look for their database to be unused (DROP DATABASE) wait for a backend that
// is about to end.
func (*Engine) OpenPassword(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint) (runtime.PasswordSession, error) {
	s, err := stateOf(g)
	if err != nil {
		return nil, err
	}
	cfg, err := config(s.Admin, "", s.DB)
	if err != nil {
		return nil, err
	}
	maps.Copy(cfg.RuntimeParams, own(major(s.Version)))
	cfg.DialFunc, cfg.BuildFrontend = dialer(ep.SocketDir), boundedFrontend
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to set a password: %w", err)
	}
	p := &passwordSession{conn, s.User}
	if err := p.exec(ctx, "BEGIN; "+p.update("NULL")+"; ROLLBACK", 1); err != nil {
		_ = p.Close() // the first error tells more
		return nil, fmt.Errorf("try to set a password: %w", err)
	}
	return p, nil
}

// update is ALTER ROLE … PASSWORD but for what that does last: it computes the iterated
// hash, ten milliseconds, to see that the verifier is not of an empty password.
// See AlterRole in src/backend/commands/user.c.
func (p *passwordSession) update(literalVerifier string) string {
	return "UPDATE pg_catalog.pg_authid SET rolpassword = " + literalVerifier + " WHERE rolname = " + literal(p.role)
}

// exec runs SQL whose statement of that number, from 0, is an update of one row.
func (p *passwordSession) exec(ctx context.Context, sql string, n int) error {
	results, err := p.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return err
	}
	if len(results) <= n || results[n].CommandTag.RowsAffected() != 1 {
		return fmt.Errorf("role %s is gone: %w", p.role, errdefs.ErrNotFound)
	}
	return nil
}

// Set implements [runtime.PasswordSession].
func (p *passwordSession) Set(ctx context.Context, password runtime.Password) error {
	if err := p.exec(ctx, p.update(literal(password.Verifier)), 0); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}

// Close implements [runtime.PasswordSession]. It does not wait for the backend to end.
func (p *passwordSession) Close() error { return p.conn.Conn().Close() }
