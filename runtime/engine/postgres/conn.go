package postgres

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
)

// probeLimit bounds what is read in one connection to a clone's server, which is
// not trusted.
const probeLimit = 1 << 20

// probe connects to the socket in dir once and asks a query.
func (s state) probe(ctx context.Context, dir string) error {
	cfg, err := config(s.User, "", s.DB)
	if err != nil {
		return err
	}
	maps.Copy(cfg.RuntimeParams, patience(major(s.Version)))
	cfg.DialFunc, cfg.BuildFrontend = dialer(dir), boundedFrontend
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	// Not the connection's own Close, which waits for the backend to end.
	defer conn.Conn().Close()
	results, err := conn.Exec(ctx, "SELECT 1").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 {
		return fmt.Errorf("answer to SELECT 1: %d results", len(results))
	}
	return nil
}

func boundedFrontend(r io.Reader, w io.Writer) *pgproto3.Frontend { return bounded(r, w, probeLimit) }

// buildLimit bounds what is read in one connection to a server under construction, which an image may have brought along: a million
// tables fit.
const buildLimit = 128 << 20

func buildFrontend(r io.Reader, w io.Writer) *pgproto3.Frontend { return bounded(r, w, buildLimit) }

func bounded(r io.Reader, w io.Writer, limit int64) *pgproto3.Frontend {
	f := pgproto3.NewFrontend(io.LimitReader(r, limit), w)
	f.SetMaxBodyLen(int(min(limit, 16<<20))) // room is made for a message by the length that it says
	return f
}

func dialer(dir string) pgconn.DialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) { return dial.Socket(ctx, socketPath(dir)) }
}

// dialTCP connects over the network, as a client of a clone does.
func dialTCP(ctx context.Context, host, user, password, database string) (*pgconn.PgConn, error) {
	cfg, err := config(user, password, database)
	if err != nil {
		return nil, err
	}
	cfg.BuildFrontend = boundedFrontend
	address := net.JoinHostPort(host, fmt.Sprint(port))
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}
	return pgconn.ConnectConfig(ctx, cfg)
}

// config is that of one plain connection; nothing is taken from this
// process's environment. DialFunc is the caller's.
func config(user, password, database string) (*pgconn.Config, error) {
	cfg, err := pgconn.ParseConfig("host=localhost sslmode=disable passfile=/dev/null")
	if err != nil {
		return nil, fmt.Errorf("configure connection: %w", err)
	}
	cfg.Host, cfg.Port, cfg.TLSConfig, cfg.Fallbacks = "localhost", port, nil, nil
	cfg.User, cfg.Password, cfg.Database = user, password, database
	cfg.ConnectTimeout = 30 * time.Second
	cfg.RuntimeParams = map[string]string{"application_name": "ctrsnap"}
	cfg.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"localhost"}, nil }
	return cfg, nil
}
