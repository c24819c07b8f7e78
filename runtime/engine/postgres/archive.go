package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/dial"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// archive is a dump that pg_restore reads.
type archive struct {
	name   string // for people
	source string // among the dumps, "" where it was just made by ourselves
	path   string // in the container
	format format
}

// restoreArchive makes the database as the dump describes it and fills it.
func (b *build) restoreArchive(ctx context.Context, a archive) error {
	if err := b.verify(ctx, a); err != nil {
		return err
	}
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
	args := []string{"pg_restore", "--no-tablespaces", "--verbose", "-d", connString(b.st.DB)}
	if !b.src.GoOn {
		args = append(args, "--exit-on-error")
	}
	if schema.public {
		list, err := b.listWithoutPublic(ctx, a, schema)
		if err != nil {
			return err
		}
		args = append(args, "-L", list)
	}
	if a.format != formatTar { // a tar has to be read from start to end
		args = append(args, "-j", strconv.Itoa(jobs()))
	}
	count := &tableCounter{}
	err = b.watch(&count.n, schema.tables, func() error {
		return b.unlessStalled(ctx, a.name, func(ctx context.Context) error {
			return b.svc.Exec(ctx, b.tool(loading, append(args, a.path)...), runtime.Stdio{Stderr: count})
		})
	})
	list, more := count.all()
	err = b.toolError(ctx, err, func() error { return b.restoreError(a.name, &count.failures) })
	if err != nil {
		return err
	}
	b.tellFailures(a.name, list, more)
	b.alterDatabase(ctx, schema)
	return nil
}

// maxList bounds the table of contents of an archive, in bytes: a line for each of a million things, and more.
const maxList = 128 << 20

// publicRE is the entry of a table of contents that makes schema public.
var publicRE = regexp.MustCompile(`(?m)^\d+; \d+ \d+ SCHEMA - public .*$`)

// listWithoutPublic writes the table of contents of an archive of schema public alone (pg_dump --schema), without its making: the database
// has it. It returns the file's path in the container.
func (b *build) listWithoutPublic(ctx context.Context, a archive, s *schema) (string, error) {
	list := dial.Answer{Limit: maxList}
	if err := b.svc.Exec(ctx, b.tool(loading, "pg_restore", "-l", a.path), runtime.Stdio{Stdout: &list}); err != nil {
		return "", err
	}
	const name = ".list"
	root, err := os.OpenRoot(b.wb.SourceDir())
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	if err := foreign.WriteFile(root, name, publicRE.ReplaceAll(list.Bytes(), nil), 0o644); err != nil {
		return "", err
	}
	if s.owner != "" {
		_, err = b.queryAs(ctx, b.st.DB, s.encoding, s.owner)
	}
	return runtime.SourceDir + "/" + name, err
}

// readSchema has pg_restore print the dump without its data.
func (b *build) readSchema(ctx context.Context, a archive) (*schema, error) {
	text := newSchemaPipe()
	var out failures
	// The owners of large objects are among the data for --schema-only.
	p := b.tool(loading, "pg_restore", "--section=pre-data", "--section=post-data", "--create", "--no-tablespaces", "-f", "-", a.path)
	err := b.svc.Exec(ctx, p, runtime.Stdio{Stdout: text, Stderr: &out})
	err = b.toolError(ctx, err, func() error { return b.restoreError(a.name, &out) })
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
	failures
	n atomic.Int64
}

// Write takes what pg_restore --verbose tells.
func (c *tableCounter) Write(p []byte) (int, error) {
	c.n.Add(int64(bytes.Count(p, []byte("processing data for table"))))
	return c.failures.Write(p)
}

// restoreError is what ended pg_restore: the first failure, for others follow from it. There is none if it went on after all.
func (b *build) restoreError(name string, failed *failures) error {
	list, _ := failed.all()
	out := failed.out.String()
	switch {
	case len(list) == 0:
		return b.hinted(&runtime.SourceError{File: name, Message: toolMessage(out)})
	case b.src.GoOn && strings.Contains(out, "errors ignored on restore: "):
		return nil
	}
	return b.sourceError(name, list[0])
}
