package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// archive is a dump that pg_restore reads.
type archive struct {
	name   string // for people
	path   string // in the container
	format format
}

// restoreArchive makes the database as the dump describes it and fills it.
func (b *build) restoreArchive(ctx context.Context, a archive) error {
	schema, err := b.readSchema(ctx, a)
	if err != nil {
		return err
	}
	if b.st.DB == "" {
		b.st.DB = b.database()
	}
	if err := b.makeRoles(ctx, schema); err != nil {
		return err
	}
	if err := b.makeDatabase(ctx, schema); err != nil {
		return err
	}
	args := []string{"pg_restore", "--exit-on-error", "--no-tablespaces", "--verbose", "-d", connString(b.st.DB)}
	if a.format != formatTar { // a tar has to be read from start to end
		args = append(args, "-j", strconv.Itoa(jobs()))
	}
	count := &tableCounter{}
	err = b.watch(&count.n, schema.tables, func() error {
		return b.svc.Exec(ctx, b.tool(loading, append(args, a.path)...), runtime.Stdio{Stderr: count})
	})
	if err != nil {
		return b.toolError(ctx, err, func() error { return dumpError(a.name, "%s", toolMessage(count.out.String())) })
	}
	b.alterDatabase(ctx, schema)
	return nil
}

// readSchema has pg_restore print the dump without its data.
func (b *build) readSchema(ctx context.Context, a archive) (*schema, error) {
	text := newSchemaPipe()
	var out tail
	p := b.tool(loading, "pg_restore", "--schema-only", "--create", "--no-tablespaces", "-f", "-", a.path)
	err := b.svc.Exec(ctx, p, runtime.Stdio{Stdout: text, Stderr: &out})
	err = b.toolError(ctx, err, func() error { return dumpError(a.name, "%s", toolMessage(out.String())) })
	s, perr := text.end()
	return s, errors.Join(err, perr)
}

// makeRoles makes the roles that a dump names and that are missing. A dump of
// one database does not say more of them than their names: they cannot log in.
func (b *build) makeRoles(ctx context.Context, s *schema) error {
	for _, role := range s.roles {
		_, err := b.queryAs(ctx, "postgres", s.encoding, "CREATE ROLE "+ident(role)+" NOLOGIN")
		if sqlState(err) == "42710" { // duplicate_object
			continue
		}
		if err != nil {
			return fmt.Errorf("make role %s: %w", role, err)
		}
		fmt.Fprintf(b.wb.Log(), "role %s is named in the dump and missing: made without login\n", role)
	}
	return nil
}

func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// makeDatabase makes the database as the dump tells it, with its owner and privileges.
func (b *build) makeDatabase(ctx context.Context, s *schema) error {
	exists, err := b.exists(ctx, b.st.DB)
	if err != nil {
		return err
	}
	if !exists {
		if _, err := b.createDatabase(ctx, b.st.DB, b.st.DB, s.create); err != nil {
			return fmt.Errorf("make database %s: %w", b.st.DB, err)
		}
	}
	return nil
}

// alterDatabase says of the database what the dump says of its own. Its settings come last: they are for those that use it,
// not for the restore.
func (b *build) alterDatabase(ctx context.Context, s *schema) {
	for _, rest := range s.alter {
		sql := rest.before + ident(b.st.DB) + rest.after
		// In the database itself: what is said of it is kept as it is encoded there.
		if _, err := b.queryAs(ctx, b.st.DB, s.encoding, sql); err != nil {
			b.wb.Warn(fmt.Sprintf("left out: %s: %s", excerpt(sql), serverSays(err)))
		}
	}
}

// exists says whether there is a database of that name.
func (b *build) exists(ctx context.Context, name string) (bool, error) {
	rows, err := b.query(ctx, "postgres", "SELECT 1 FROM pg_catalog.pg_database WHERE datname = "+literal(name))
	return len(rows) > 0, err
}

// tableCounter counts the tables that pg_restore says it has loaded.
type tableCounter struct {
	out tail
	n   atomic.Int64
}

// Write takes what pg_restore --verbose tells.
func (c *tableCounter) Write(p []byte) (int, error) {
	c.n.Add(int64(bytes.Count(p, []byte("processing data for table"))))
	return c.out.Write(p)
}
