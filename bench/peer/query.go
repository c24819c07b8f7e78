// Package peer holds what ctrsnap is compared with: the same server without
// ctrsnap on a reflinked copy of the same data, and copies that a server makes of
// a database itself.
package peer

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// connectTimeout is how long a server may take to answer.
const connectTimeout = 30 * time.Second

// Endpoint is how a client reaches a database. All measured things are asked
// in the same way, by the unix socket, unless an address is given.
type Endpoint struct {
	Socket   string // path
	User     string
	Password string
	Database string
	Address  netip.AddrPort // by TCP, where it is valid
	// Other asks a server that is not PostgreSQL, in place of all that is asked by SQL.
	Other func(ctx context.Context) error
}

// Connect opens a connection.
func (e Endpoint) Connect(ctx context.Context) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig("host=localhost sslmode=disable passfile=/dev/null")
	if err != nil {
		return nil, fmt.Errorf("configure connection: %w", err)
	}
	cfg.User, cfg.Password, cfg.Database = e.User, e.Password, e.Database
	cfg.Fallbacks, cfg.RuntimeParams, cfg.ConnectTimeout = nil, map[string]string{"application_name": "ctrsnap-bench"}, connectTimeout
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"localhost"}, nil }
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		if e.Address.IsValid() {
			return d.DialContext(ctx, "tcp", e.Address.String())
		}
		return d.DialContext(ctx, "unix", e.Socket)
	}
	return pgconn.ConnectConfig(ctx, cfg)
}

// Value connects, asks a query and returns the first column of its first row.
func (e Endpoint) Value(ctx context.Context, query string) (string, error) {
	conn, err := e.Connect(ctx)
	if err != nil {
		return "", fmt.Errorf("connect to %s: %w", e.Socket, err)
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // the answer is there
	answer, err := ValueOn(ctx, conn, query)
	if err != nil {
		return "", fmt.Errorf("query %s: %w", e.Socket, err)
	}
	return answer, nil
}

// ValueOn is [Endpoint.Value] over an open connection.
func ValueOn(ctx context.Context, conn *pgconn.PgConn, query string) (string, error) {
	results, err := conn.Exec(ctx, query).ReadAll()
	if err != nil {
		return "", err
	}
	for _, r := range results {
		if len(r.Rows) > 0 && len(r.Rows[0]) > 0 {
			return string(r.Rows[0][0]), nil
		}
	}
	return "", nil
}

// WantOn is [Endpoint.Want] over an open connection.
func WantOn(ctx context.Context, conn *pgconn.PgConn, query, want string) error {
	got, err := ValueOn(ctx, conn, query)
	if err == nil && got != want {
		err = fmt.Errorf("%s: got %q, want %q", query, got, want)
	}
	return err
}

// Answer returns when the database has answered SELECT 1, or what else it is asked.
func (e Endpoint) Answer(ctx context.Context) error {
	if e.Other != nil {
		return e.Other(ctx)
	}
	return e.Want(ctx, "SELECT 1", "1")
}

// Want fails if a query's answer is another one.
func (e Endpoint) Want(ctx context.Context, query, want string) error {
	got, err := e.Value(ctx, query)
	if err == nil && got != want {
		err = fmt.Errorf("%s: got %q, want %q", query, got, want)
	}
	return err
}
