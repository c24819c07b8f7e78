// Package mariadb is the engine for MariaDB and MySQL: a description each, and
// what asks a server by their protocol.
package mariadb

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"time"

	"database/sql/driver"

	"github.com/containerd/errdefs"
	"github.com/go-sql-driver/mysql"

	"github.com/ctrsnap/ctrsnap/runtime/engine/described"
)

var (
	//go:embed mariadb.toml
	mariadbText string
	//go:embed mysql.toml
	mysqlText string
)

// New returns the engine "mariadb".
func New() *described.Engine { return described.BuiltIn(mariadbText, protocol{hash: true}) }

// NewMySQL returns the engine "mysql".
func NewMySQL() *described.Engine { return described.BuiltIn(mysqlText, protocol{}) }

// protocol asks by MySQL's client protocol.
type protocol struct {
	hash bool // SET PASSWORD takes a hash, which MySQL does no longer
}

// answerTimeout bounds one answer of the server, which is not trusted.
const answerTimeout = 10 * time.Second

// Ask shakes hands, logs in and asks SELECT 1.
func (protocol) Ask(ctx context.Context, conn net.Conn, login described.Login) error {
	c, err := connect(ctx, conn, login)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // all is said
	rows, err := c.(driver.QueryerContext).QueryContext(ctx, "SELECT 1", nil)
	if err != nil {
		return class(err)
	}
	defer func() { _ = rows.Close() }()
	return rows.Next(make([]driver.Value, 1))
}

// connect shakes hands over conn, and logs in.
func connect(ctx context.Context, conn net.Conn, login described.Login) (driver.Conn, error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.DBName = login.User, login.Password, login.Database
	// By a unix socket a server takes a password as it is, and nothing else the first time.
	cfg.Net, cfg.Addr = conn.RemoteAddr().Network(), "localhost"
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = answerTimeout, answerTimeout, answerTimeout
	cfg.MaxAllowedPacket, cfg.CheckConnLiveness, cfg.Logger = 1<<20, false, &mysql.NopLogger{}
	cfg.AllowNativePasswords, cfg.AllowFallbackToPlaintext = true, false
	cfg.DialFunc = func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("configure connection: %w", err)
	}
	c, err := connector.Connect(ctx)
	if err != nil {
		return nil, class(err)
	}
	return c, nil
}

// Errors by which a server says that it takes no logins yet, or ends. See
// https://mariadb.com/kb/en/mariadb-error-code-reference/.
const (
	serverShutdown = 1053
	tooMany        = 1040
)

// class makes what a server says before it is ready something that passes: it takes
// connections into its queue before it answers them.
func class(err error) error {
	var said *mysql.MySQLError
	if errors.As(err, &said) && said.Number != serverShutdown && said.Number != tooMany {
		return err
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
}
