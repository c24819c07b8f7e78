package peer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Template makes databases inside one running server: CREATE DATABASE …
// TEMPLATE, with a strategy of the server's.
type Template struct {
	server   *Bare
	strategy string // FILE_COPY or WAL_LOG
	admin    *pgconn.PgConn
	made     int
	number   int
}

// NewTemplate connects to a server that runs. Its database is the template:
// nobody may be connected to it. The caller must Close the Template.
func NewTemplate(ctx context.Context, server *Bare, strategy string) (*Template, error) {
	at := server.Endpoint
	at.Database = "template1"
	admin, err := at.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to template server: %w", err)
	}
	return &Template{server: server, strategy: strategy, admin: admin}, nil
}

// Number tells the databases of several Templates of one server apart.
func (t *Template) Number(n int) { t.number = n }

// Name implements [Peer].
func (t *Template) Name() string { return "template_" + strings.ToLower(t.strategy) }

// Get implements [Peer].
func (t *Template) Get(ctx context.Context) (Endpoint, Drop, error) {
	t.made++
	at := t.server.Endpoint
	at.Database = fmt.Sprintf("copy%d_%d", t.number, t.made)
	create := fmt.Sprintf("CREATE DATABASE %s TEMPLATE %q STRATEGY %s", at.Database, t.server.Database, t.strategy)
	if err := t.exec(ctx, create); err != nil {
		return at, nil, err
	}
	drop := func(ctx context.Context) error { return t.exec(ctx, "DROP DATABASE "+at.Database+" WITH (FORCE)") }
	if err := at.Answer(ctx); err != nil {
		return at, nil, errors.Join(err, drop(context.WithoutCancel(ctx)))
	}
	return at, drop, nil
}

// Copy makes a database and returns how long it took until a new connection to
// it had answered SELECT 1. check sees the database before it is dropped.
func (t *Template) Copy(ctx context.Context, check func(Endpoint) error) (took time.Duration, err error) {
	begun := time.Now()
	at, drop, err := t.Get(ctx)
	if err != nil {
		return 0, err
	}
	took = time.Since(begun)
	return took, errors.Join(check(at), drop(ctx))
}

func (t *Template) exec(ctx context.Context, sql string) error {
	if _, err := t.admin.Exec(ctx, sql).ReadAll(); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

var _ Peer = (*Template)(nil)

// Close closes the connection. The server goes on.
func (t *Template) Close(ctx context.Context) error { return t.admin.Close(ctx) }
