package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// newPassword returns 24 characters, 142 bits, that need no quoting anywhere.
func newPassword() string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	out := make([]byte, 0, 24)
	var random [1]byte
	for len(out) < cap(out) {
		_, _ = rand.Read(random[:]) // never fails, see its documentation
		if i := int(random[0]); i < 4*len(digits) {
			out = append(out, digits[i%len(digits)])
		}
	}
	return string(out)
}

// chooseDatabase says which database clones are handed out with, and makes it
// where the data did not bring one.
func (b *build) chooseDatabase(ctx context.Context) error {
	if b.src.Parent == nil && b.cluster && b.src.Database == "" {
		return b.onlyDatabase(ctx)
	}
	if b.st.DB == "" || b.src.Database != "" {
		b.st.DB = b.database()
	}
	exists, err := b.exists(ctx, b.st.DB)
	if err != nil || exists {
		return err
	}
	if b.src.Dir {
		return fmt.Errorf("database %s is not in the data directory: %w", b.st.DB, errdefs.ErrInvalidArgument)
	}
	_, err = b.query(ctx, "postgres", "CREATE DATABASE "+ident(b.st.DB))
	if err != nil {
		return fmt.Errorf("make database %s: %w", b.st.DB, err)
	}
	return nil
}

// onlyDatabase chooses the one database that users made, or postgres.
func (b *build) onlyDatabase(ctx context.Context) error {
	names, err := b.databases(ctx)
	if err != nil {
		return err
	}
	users := slices.DeleteFunc(names, func(n string) bool { return n == "postgres" || n == "template1" })
	b.st.DB = "postgres"
	if len(users) == 1 {
		b.st.DB = users[0]
	}
	return nil
}

// databases lists those that can be connected to.
func (b *build) databases(ctx context.Context) ([]string, error) {
	names, err := b.query(ctx, "template1",
		"SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 ORDER BY datname")
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	return names, nil
}

// login makes sure that the role which clones are handed out with can log in,
// by doing it. A role of the golden whose password came with the data keeps
// it, unless the caller gave one: then ctrsnap's own role is handed out.
func (b *build) login(ctx context.Context) error {
	if b.src.Login != "" {
		return b.loginAs(ctx, b.src.Login)
	}
	if b.src.User != "" {
		b.st.User = b.src.User
	}
	if b.src.Password != "" {
		b.st.Passwd = b.src.Password
	}
	if err := b.makeUser(ctx); err != nil {
		return err
	}
	err := b.tryLogin(ctx)
	if !refused(err) {
		return err
	}
	if b.src.Password == "" && b.st.User != loginRole {
		fmt.Fprintf(b.wb.Log(), "the password of %s is not known: clones log in as %s\n", b.st.User, loginRole)
		b.st.User, b.st.Passwd = loginRole, newPassword()
		if err := b.makeUser(ctx); err != nil {
			return err
		}
	}
	if err := b.alterUser(ctx); err != nil {
		return err
	}
	return b.tryLogin(ctx)
}

// loginAs hands clones out with a role of the sources, whose rights stay as they are. Its password has to be known: it is
// another than before.
func (b *build) loginAs(ctx context.Context, role string) error {
	rows, err := b.query(ctx, "template1", "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = "+literal(role))
	if err != nil {
		return err
	}
	if len(rows) == 0 {
		return snapshot.WithHint(fmt.Errorf("role %s is not in the golden: %w", role, errdefs.ErrInvalidArgument),
			"--login names a role that a dump or an init script makes; --user makes a superuser")
	}
	if b.st.User != role || b.src.Password != "" {
		b.st.User, b.st.Passwd = role, cmp.Or(b.src.Password, newPassword())
	}
	if err := b.alterUser(ctx); err != nil {
		return err
	}
	return b.tryLogin(ctx)
}

// makeUser makes the role if it is missing, as a superuser.
func (b *build) makeUser(ctx context.Context) error {
	rows, err := b.query(ctx, "template1", "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = "+literal(b.st.User))
	if err != nil || len(rows) > 0 {
		return err
	}
	if b.st.Passwd == "" {
		b.st.Passwd = newPassword()
	}
	_, err = b.query(ctx, "template1", "CREATE ROLE "+ident(b.st.User)+" SUPERUSER")
	if err != nil {
		return fmt.Errorf("make role %s: %w", b.st.User, err)
	}
	return b.alterUser(ctx)
}

func (b *build) alterUser(ctx context.Context) error {
	sql := "ALTER ROLE " + ident(b.st.User) + " LOGIN PASSWORD " + literal(b.st.Passwd) + " VALID UNTIL 'infinity'"
	if b.st.User == loginRole {
		sql += "; ALTER ROLE " + loginRole + " SUPERUSER"
	}
	if _, err := b.query(ctx, "template1", sql); err != nil {
		return fmt.Errorf("set password of %s: %w", b.st.User, err)
	}
	return nil
}

// tryLogin logs in as a client of a clone does.
func (b *build) tryLogin(ctx context.Context) error {
	conn, err := dialTCP(ctx, b.svc.Endpoint().Addr.String(), b.st.User, b.st.Passwd, b.st.DB)
	if err != nil {
		return snapshot.WithHint(fmt.Errorf("log in as %s to database %s: %w", b.st.User, b.st.DB, err),
			"--user, --password and --database choose others")
	}
	return conn.Close(ctx)
}

// refused says that the server does not let a user in: class 28, Invalid
// Authorization Specification. An empty password is not even sent.
func refused(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && strings.HasPrefix(pgErr.Code, "28")
}
