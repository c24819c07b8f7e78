package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres/psql"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// opensOwn says whether a dump in SQL begins with a database of its own, as pg_dump --create writes it:
// nothing of it is for the database that psql begins in.
func opensOwn(head []byte) bool {
	for sc := psql.NewScanner(bytes.NewReader(head), true); ; {
		p, err := sc.Next()
		if err != nil {
			return false
		}
		s := stmt{p.Text, p.Tokens}
		switch command := p.Command(); {
		case p.Kind == psql.Blank, command == "restrict", command == "set", command == "encoding":
		case command == "c", command == "connect", s.has(0, "CREATE", "DATABASE"):
			return true
		case s.has(0, "SET"), s.has(0, "SELECT", "PG_CATALOG", ".", "SET_CONFIG"), s.has(0, "DROP", "DATABASE"):
		case s.has(0, "CREATE|ALTER|DROP", "ROLE|USER|GROUP"), s.has(0, "GRANT") && s.find(1, "ON") < 0:
		default:
			return false
		}
	}
}

// beginDatabase returns the database that psql begins in with a dump in SQL, and those that are there before it.
func (b *build) beginDatabase(ctx context.Context, d plainDump) (name string, before []string, err error) {
	if d.cluster || opensOwn(d.head) {
		name = "postgres"
		if b.src.Parent == nil { // that of an image is in the way, perhaps by name
			if err := b.dropUnused(ctx); err != nil {
				return "", nil, err
			}
			b.st.DB = ""
		}
	} else if err := b.chooseDatabase(ctx); err != nil {
		return "", nil, err
	} else {
		name = b.st.DB
	}
	before, err = b.databases(ctx)
	return name, before, err
}

// settleDatabase says which database clones are handed out with after a dump in SQL, which may have made some.
func (b *build) settleDatabase(ctx context.Context, before []string) error {
	all, err := b.databases(ctx)
	if err != nil {
		return err
	}
	want := b.src.Database
	if want != "" && want != b.st.DB && slices.Contains(all, want) {
		b.st.DB = want
		return nil
	}
	made := slices.DeleteFunc(all, func(n string) bool { return slices.Contains(before, n) })
	unused, err := b.unused(ctx)
	switch {
	case err != nil || b.st.DB != "" && !unused:
		return err
	case len(made) == 1:
		return b.takeDatabase(ctx, made[0], want)
	case b.st.DB == "" && want != "" && len(made) > 0:
		return snapshot.WithHint(fmt.Errorf("database %s is not in the dump: %w", want, errdefs.ErrInvalidArgument),
			"the dump has "+strings.Join(made, ", "))
	case b.st.DB == "" && want == "":
		b.st.DB = "postgres"
		if unused, err := b.unused(ctx); err != nil || unused && len(made) == 0 {
			b.st.DB = "" // the dump was of roles: the golden's own is made, or the next dump's
			return err
		}
	}
	if len(made) > 0 {
		b.wb.Warn(fmt.Sprintf("the dump has databases %s: URLs of clones lead to %s, --database NAME chooses another",
			strings.Join(made, ", "), b.st.DB))
	}
	return nil
}

// unused says that the golden's database is there and nothing is in it.
func (b *build) unused(ctx context.Context) (bool, error) {
	if b.st.DB == "" {
		return false, nil
	}
	rows, err := b.query(ctx, b.st.DB, `SELECT 1 FROM pg_catalog.pg_namespace n WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND (
		EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = n.oid) OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = n.oid)
		OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = n.oid))`)
	return len(rows) == 0, err
}

func (b *build) dropUnused(ctx context.Context) error {
	unused, err := b.unused(ctx)
	if err != nil || !unused || b.st.DB == "postgres" {
		return err
	}
	if _, err := b.query(ctx, "postgres", "DROP DATABASE "+ident(b.st.DB)); err != nil {
		return fmt.Errorf("drop empty database %s: %w", b.st.DB, err)
	}
	return nil
}

// takeDatabase makes the one database of a dump the golden's, in place of an empty one and by the name that is wanted.
func (b *build) takeDatabase(ctx context.Context, name, want string) error {
	if b.src.Parent == nil {
		if err := b.dropUnused(ctx); err != nil {
			return err
		}
	}
	if want != "" {
		if _, err := b.query(ctx, "postgres", "ALTER DATABASE "+ident(name)+" RENAME TO "+ident(want)); err != nil {
			return fmt.Errorf("rename database %s: %w", name, err)
		}
		name = want
	}
	b.st.DB = name
	return nil
}

// option is one of CREATE DATABASE, with its value as it is written.
type option struct{ name, value string }

// parseOptions returns the options that follow CREATE DATABASE name.
func parseOptions(text string) (options []option) {
	p, err := psql.NewScanner(strings.NewReader(strings.TrimSpace(text)), true).Next()
	if err != nil {
		return nil
	}
	s := stmt{p.Text, p.Tokens}
	i := 0
	if s.has(0, "WITH") {
		i++
	}
	for i < len(s.tokens) {
		o := option{name: s.word(i)}
		if i++; o.name == "CONNECTION" {
			o.name, i = "CONNECTION LIMIT", i+1
		}
		if s.has(i, "=") {
			i++
		}
		if o.value = s.raw(i); o.value == "-" {
			i++
			o.value += s.raw(i)
		}
		i++
		options = append(options, o)
	}
	return options
}

func optionsText(options []option) string {
	var text []string
	for _, o := range options {
		text = append(text, o.name+" = "+o.value)
	}
	return strings.Join(text, " ")
}

// value is an option's; "" where there is none.
func value(options []option, name string) string {
	for _, o := range options {
		if o.name == name {
			return o.value
		}
	}
	return ""
}

func without(options []option, names ...string) []option {
	return slices.DeleteFunc(slices.Clone(options), func(o option) bool { return slices.Contains(names, o.name) })
}

var localeOptions = []string{"LOCALE", "LC_COLLATE", "LC_CTYPE", "LOCALE_PROVIDER", "ICU_LOCALE", "ICU_RULES", "BUILTIN_LOCALE", "COLLATION_VERSION"}

// alternatives are options for a database as close to those of a dump as a base may have them.
// The last ones are of another locale, from number other on.
func alternatives(options []option) (all [][]option, other int) {
	all = append(all, options)
	rest := without(options, localeOptions...)
	collate, ctype := value(options, "LC_COLLATE"), value(options, "LC_CTYPE")
	if locale := value(options, "LOCALE"); locale != "" {
		collate, ctype = locale, locale
	}
	if collate != "" && ctype != "" && !strings.EqualFold(value(options, "LOCALE_PROVIDER"), "icu") {
		all = append(all, append(rest, option{"LC_COLLATE", collate}, option{"LC_CTYPE", ctype})) // as all versions know it
	}
	other = len(all)
	template := append(without(rest, "TEMPLATE"), option{"TEMPLATE", "template0"})
	return append(all, template, without(template, "ENCODING")), other
}

// createDatabase makes a database with the options that a dump tells, or with those that the base has: then the caller is told of the
// other locale. It returns the options. called is the database's name for people.
func (b *build) createDatabase(ctx context.Context, name, called, text string) (string, error) {
	options := without(parseOptions(text), "TABLESPACE")
	all, other := alternatives(options)
	var first error
	for i, o := range all {
		used := optionsText(o)
		_, err := b.query(ctx, "postgres", "CREATE DATABASE "+ident(name)+" "+used)
		if err == nil && i >= other && len(options) > 0 {
			b.tellLocale(ctx, name, called, options, first)
		}
		if err == nil || sqlState(err) == "42P04" { // duplicate_database
			return used, err
		}
		if first == nil {
			first = err
		}
	}
	return "", first
}

// ownOptions are those of CREATE DATABASE that do not depend on the base.
var ownOptions = []string{"OWNER", "IS_TEMPLATE", "ALLOW_CONNECTIONS", "CONNECTION LIMIT", "OID"}

// fitDatabase returns options of a database that the base has: it makes one that is dropped again.
func (b *build) fitDatabase(ctx context.Context, called, text string) (string, error) {
	const trial = "ctrsnap trial"
	options := without(parseOptions(text), "TABLESPACE")
	of := func(own bool) string {
		return optionsText(slices.DeleteFunc(slices.Clone(options), func(o option) bool { return slices.Contains(ownOptions, o.name) != own }))
	}
	used, err := b.createDatabase(ctx, trial, called, of(false))
	if err != nil {
		return "", err
	}
	_, err = b.query(ctx, "postgres", "DROP DATABASE "+ident(trial))
	return strings.TrimSpace(used + " " + of(true)), err
}

// tellLocale says that a database has another locale than that of the dump.
func (b *build) tellLocale(ctx context.Context, name, called string, options []option, because error) {
	has, err := b.query(ctx, "postgres", "SELECT pg_catalog.pg_encoding_to_char(encoding) || ' ' || datcollate FROM pg_catalog.pg_database WHERE datname = "+literal(name))
	if err != nil || len(has) == 0 {
		has = []string{"the default"}
	}
	was := slices.DeleteFunc(slices.Clone(options), func(o option) bool { return o.name != "ENCODING" && !slices.Contains(localeOptions, o.name) })
	b.wb.Warn(fmt.Sprintf("database %s: the base does not have its locale (%s: %s): it has %s instead, so that ORDER BY and comparisons may differ",
		called, optionsText(was), serverSays(because), has[0]))
}

// serverSays is the message of a server's error alone.
func serverSays(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return oneLine(pgErr.Message)
	}
	return oneLine(err.Error())
}
