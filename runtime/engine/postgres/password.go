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

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

var _ runtime.PasswordSetter = (*Engine)(nil)

// scramIterations is the server's own default, and what its clients expect.
const scramIterations = 4096

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

// quiet keeps what is told the server out of its log, whatever the golden logs.
var quiet = map[string]string{
	"log_statement": "none", "log_duration": "off", "log_min_duration_statement": "-1", "log_min_error_statement": "panic",
	"synchronous_commit": "off",
}

// SetPassword tells the server the verifier, by its socket as a superuser.
func (*Engine) SetPassword(ctx context.Context, g snapshot.Golden, ep runtime.Endpoint, p runtime.Password) error {
	s, err := stateOf(g)
	if err != nil {
		return err
	}
	cfg, err := config(s.Admin, "", s.DB)
	if err != nil {
		return err
	}
	maps.Copy(cfg.RuntimeParams, quiet)
	cfg.DialFunc, cfg.BuildFrontend = dialer(ep.SocketDir), boundedFrontend
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	defer conn.Conn().Close() // not the connection's own Close, which waits for the backend to end
	if _, err := conn.Exec(ctx, "ALTER ROLE "+ident(s.User)+" PASSWORD "+literal(p.Verifier)).ReadAll(); err != nil {
		return fmt.Errorf("set password: %w", err)
	}
	return nil
}
