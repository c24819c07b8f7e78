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
	if err := b.makeRoles(ctx, schema.roles); err != nil {
		return err
	}
	if err := b.makeDatabase(ctx, schema); err != nil {
		return err
	}
	args := []string{"pg_restore", "--exit-on-error", "--no-tablespaces", "--verbose", "-d", b.st.DB}
	if a.format != formatTar { // a tar has to be read from start to end
		args = append(args, "-j", strconv.Itoa(jobs()))
	}
	count := &tableCounter{}
	err = b.watch(&count.n, schema.tables, func() error {
		return b.svc.Exec(ctx, b.tool(append(args, a.path)...), runtime.Stdio{Stderr: count})
	})
	return b.toolError(ctx, err, func() error { return dumpError(a.name, "%s", toolMessage(count.out.String())) })
}

// readSchema has pg_restore print the dump without its data.
func (b *build) readSchema(ctx context.Context, a archive) (*schema, error) {
	text := newSchemaPipe()
	var out tail
	p := b.tool("pg_restore", "--schema-only", "--create", "--no-tablespaces", "-f", "-", a.path)
	err := b.svc.Exec(ctx, p, runtime.Stdio{Stdout: text, Stderr: &out})
	err = b.toolError(ctx, err, func() error { return dumpError(a.name, "%s", toolMessage(out.String())) })
	s, perr := text.end()
	return s, errors.Join(err, perr)
}

// makeRoles makes the roles that a dump names and that are missing. A dump of
// one database does not say more of them than their names: they cannot log in.
func (b *build) makeRoles(ctx context.Context, roles []string) error {
	for _, role := range roles {
		_, err := b.query(ctx, "postgres", "CREATE ROLE "+ident(role)+" NOLOGIN")
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

// makeDatabase makes the database with the encoding, locale and settings that
// the dump tells. A locale that the base does not know becomes the default.
func (b *build) makeDatabase(ctx context.Context, s *schema) error {
	db := ident(b.st.DB)
	exists, err := b.exists(ctx, b.st.DB)
	if err != nil {
		return err
	}
	if !exists {
		_, err = b.query(ctx, "postgres", "CREATE DATABASE "+db+" "+s.create)
		if err != nil && s.create != "" {
			fmt.Fprintf(b.wb.Log(), "database as in the dump (%s): %v\nmaking it with the base's locale\n", s.create, err)
			_, err = b.query(ctx, "postgres", "CREATE DATABASE "+db+" TEMPLATE template0")
		}
		if err != nil {
			return fmt.Errorf("make database %s: %w", b.st.DB, err)
		}
	}
	for _, rest := range s.alter {
		if _, err := b.query(ctx, "postgres", rest.before+db+rest.after); err != nil {
			fmt.Fprintf(b.wb.Log(), "setting of the database left out: %v\n", err)
		}
	}
	return nil
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
