package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres/psql"
	"github.com/ctrsnap/ctrsnap/runtime/engine/source"
)

// plainDump is a dump in SQL.
type plainDump struct {
	name    string
	head    []byte
	cluster bool // by pg_dumpall: brings roles and databases
	r       io.Reader
	read    *atomic.Int64 // bytes of the file
	size    int64
}

// restorePlain sends a dump through psql. On the way, roles that are missing are made
// where they are named, and what cannot work is left out.
func (b *build) restorePlain(ctx context.Context, d plainDump) error {
	database, before, err := b.beginDatabase(ctx, d)
	if err != nil {
		return err
	}
	in := &source.Reader{R: d.r}
	f, err := b.newFilter(ctx, in, database, d.cluster)
	if err != nil {
		return err
	}
	settings := settingsOf(patience)
	if byProgram(d.head) {
		settings = loading
	}
	failed := &failures{}
	p := b.psqlProcess(settings, database, "-", !b.src.GoOn)
	err = b.watch(d.read, d.size, func() error { return b.svc.Exec(ctx, p, runtime.Stdio{Stdin: f, Stderr: failed}) })
	err = b.toolError(ctx, err, func() error { return b.psqlError(d.name, failed, f) })
	if f.restricted {
		fmt.Fprintln(b.wb.Log(), `\restrict and \unrestrict are left out: psql is confined already`)
	}
	for _, text := range f.told {
		b.wb.Warn(text)
	}
	switch {
	case in.Err != nil:
		return source.UnpackError(d.name, in.Err)
	case f.err != nil:
		return dumpError(d.name, "%s", f.err)
	case f.ended && (f.open > 0 || f.pieces == 0):
		return errors.Join(dumpError(d.name, "the dump is cut short: its last line is missing"), err)
	case err != nil:
		return err
	}
	list, more := failed.all()
	for i := range list {
		list[i].object = f.object(list[i].line)
	}
	b.tellFailures(d.name, list, more)
	if err := b.tellRoles(ctx, f); err != nil {
		return err
	}
	return b.settleDatabase(ctx, before)
}

// tellRoles says which roles are there that the dump has named but not made.
func (b *build) tellRoles(ctx context.Context, f *filter) error {
	if len(f.named) == 0 {
		return nil
	}
	roles, err := b.query(ctx, "postgres", "SELECT rolname FROM pg_catalog.pg_roles WHERE NOT rolcanlogin ORDER BY 1")
	if err != nil {
		return err
	}
	for _, role := range roles {
		if !f.known[role] {
			fmt.Fprintf(b.wb.Log(), "role %s is named in the dump and missing: made without login\n", role)
		}
	}
	return nil
}

// filter is the text of a dump as psql gets it: all of it, byte for byte and line for line, but for statements
// that cannot work, and what is put before those that name roles.
type filter struct {
	src     *psql.Scanner
	cluster bool                                       // roles that are there are not made again
	fit     func(name, options string) (string, error) // of a database, to what the base has
	known   map[string]bool                            // roles that were there, or that the dump makes
	named   map[string]bool                            // roles that were seen to
	as      string                                     // SET SESSION AUTHORIZATION that holds, "" for none
	out     []byte
	err     error // other than of src

	admin   string                 // the superuser that has to stay one
	version int                    // of the server
	try     func(sql string) error // has the server try a SET that changes nothing
	tried   map[string]string      // why a setting is unknown, by its statement
	told    []string               // what the caller is to be told
	ended   bool                   // all has been read
	pieces  int                    // that are no comments
	open    int                    // dumps that have no end yet
	comment []byte                 // the line under way
	// restricted says that \restrict was left out.
	restricted bool
	places     []place // of objects, in order
}

func (b *build) newFilter(ctx context.Context, r io.Reader, database string, cluster bool) (*filter, error) {
	roles, err := b.query(ctx, "postgres", "SELECT rolname FROM pg_catalog.pg_roles")
	if err != nil {
		return nil, err
	}
	std, err := b.query(ctx, database, "SHOW standard_conforming_strings")
	if err != nil {
		return nil, err
	}
	f := newFilter(r, std[0] == "on", cluster, roles)
	f.fit = func(name, options string) (string, error) { return b.fitDatabase(ctx, name, options) }
	f.admin, f.version = b.st.Admin, major(b.st.Version)
	f.try = func(sql string) error { _, err := b.query(ctx, "postgres", sql); return err }
	return f, nil
}

func newFilter(r io.Reader, standardStrings, cluster bool, roles []string) *filter {
	f := &filter{src: psql.NewScanner(r, standardStrings), cluster: cluster, known: map[string]bool{}, named: map[string]bool{}, tried: map[string]string{}}
	for _, role := range roles {
		f.known[role] = true
	}
	return f
}

// Read implements io.Reader. It fills p: what it returns is a write to a pipe each.
func (f *filter) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(f.out) == 0 && !f.next() {
			return n, io.EOF
		}
		m := copy(p[n:], f.out)
		f.out = f.out[m:]
		n += m
	}
	return n, nil
}

// next takes a piece. It says whether there was one.
func (f *filter) next() bool {
	piece, err := f.src.Next()
	if err != nil {
		if f.ended = errors.Is(err, io.EOF); !f.ended {
			f.err = err
		}
		return false
	}
	f.count(piece)
	f.out = f.pass(piece)
	return true
}

// dumpLines are comments at the beginning and at the end of each dump, and what they add to those that are open.
var dumpLines = map[string]int{
	"-- PostgreSQL database dump": 1, "-- PostgreSQL database dump complete": -1,
	"-- PostgreSQL database cluster dump": 1, "-- PostgreSQL database cluster dump complete": -1,
}

// count counts dumps that have begun and not ended, by comments that are comments.
func (f *filter) count(p psql.Piece) {
	if p.Kind != psql.Blank {
		f.pieces++
		f.comment = f.comment[:0]
		return
	}
	for rest := p.Text; len(rest) > 0; {
		line, after, ends := bytes.Cut(rest, []byte{'\n'})
		f.comment = append(f.comment, line[:min(len(line), max(0, 100-len(f.comment)))]...)
		if ends {
			f.open = max(0, f.open+dumpLines[string(bytes.TrimSuffix(f.comment, []byte{'\r'}))])
			f.comment = f.comment[:0]
		}
		rest = after
	}
}

// pass returns what psql gets of a piece.
func (f *filter) pass(p psql.Piece) []byte {
	if p.Kind == psql.Blank {
		f.note(p)
		return p.Text
	}
	switch p.Command() {
	case "restrict", "unrestrict":
		// They guard psql on a person's machine from the server that the dump came from.
		// Older ones do not know them, and here psql is confined.
		f.restricted = true
		return nil
	case "c", "connect":
		f.as = ""
	}
	s := stmt{p.Text, p.Tokens}
	switch string(p.Verb) {
	case "grant", "revoke", "alter", "create", "drop", "set", "reset", "discard", "comment", "security":
	case "select":
		if drop := s.dropIfThere(); drop != nil {
			return drop
		}
		return p.Text
	default: // most of a dump: rows, with or without INSERT
		return p.Text
	}
	if f.needless(s) || f.cannotBe(s) {
		return bytes.Repeat([]byte{'\n'}, bytes.Count(p.Text, []byte{'\n'})) // psql counts lines
	}
	before := f.makeRoles(s.roles())
	f.follow(s)
	text := f.instead(s)
	if before == "" {
		return text
	}
	return append([]byte(before), text...)
}

// cannotBe says that a statement cannot be had in a golden, or by a server of its version.
func (f *filter) cannotBe(s stmt) bool {
	if s.ofTablespaces() {
		f.tell(noTablespaces)
		return true
	}
	set := s.setting()
	return set != "" && !f.knows(set)
}

// instead is what psql gets in place of a statement.
func (f *filter) instead(s stmt) []byte {
	if s.has(0, "CREATE", "DATABASE") {
		return f.fitted(s)
	}
	if text := s.inTablespace(); text != nil {
		f.tell(noTablespaces)
		return text
	}
	for _, text := range [][]byte{s.dropIfThere(), f.keepAdmin(s), f.grantedBy(s)} {
		if text != nil {
			return text
		}
	}
	return s.text
}

// fitted is CREATE DATABASE with options that the base has, on as many lines.
func (f *filter) fitted(s stmt) []byte {
	if len(s.tokens) < 4 {
		return s.text
	}
	end := s.tokens[2].End
	options, err := f.fit(s.name(2), string(s.text[end:]))
	if err != nil {
		return s.text // psql says what is wrong with it
	}
	out := append(append([]byte(nil), s.text[:end]...), ' ')
	out = append(append(out, options...), ';')
	return append(out, bytes.Repeat([]byte{'\n'}, bytes.Count(s.text[end:], []byte{'\n'}))...)
}

// needless says that a statement of pg_dumpall is about roles that are there: it writes the
// first superuser as well.
func (f *filter) needless(s stmt) bool {
	switch {
	case s.has(0, "CREATE", "ROLE|USER|GROUP") && !s.has(2, "MAPPING"):
		role := s.name(2)
		exists := f.known[role]
		f.known[role] = true
		if exists && role != f.admin {
			f.tell("role " + role + " is there already: it is not made again")
		}
		return exists
	case s.has(0, "DROP", "ROLE|USER|GROUP", "IF", "EXISTS"):
		return f.drops(s.name(4))
	case s.has(0, "DROP", "ROLE|USER|GROUP") && !s.has(2, "MAPPING"):
		return f.drops(s.name(2))
	}
	return false
}

// drops says that a role stays. Others are made again where the dump does it.
func (f *filter) drops(role string) bool {
	if f.cluster {
		return f.known[role]
	}
	delete(f.known, role)
	return false
}

// follow notes who the session is.
func (f *filter) follow(s stmt) {
	switch i := s.after(1, "SESSION", "AUTHORIZATION"); {
	case s.has(0, "SET") && i > 0 && !strings.Contains(s.raw(i), "\n"):
		f.as = s.authorized(i)
	case s.has(0, "RESET", "SESSION", "AUTHORIZATION"), s.has(0, "RESET", "ALL"), s.has(0, "DISCARD", "ALL"):
		f.as = ""
	}
}

// makeRoles returns what makes psql make roles that are not there when it comes to them: a dump may have made
// them in a way that cannot be seen here. It is on one line, and in the dump's own encoding.
func (f *filter) makeRoles(roles []string) string {
	var out strings.Builder
	for _, role := range roles {
		if f.known[role] || f.named[role] || strings.ContainsAny(role, "\n\r\x00") {
			continue
		}
		f.named[role] = true
		const quote = "$ctrsnap$"
		if strings.Contains(role, "$ctrsnap") {
			continue
		}
		out.WriteString("SELECT " + quote + "CREATE ROLE " + ident(role) + " NOLOGIN" + quote +
			" WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = " + quote + role + quote + `) \gexec \\ `)
	}
	if out.Len() == 0 || f.as == "" {
		return out.String()
	}
	return "RESET SESSION AUTHORIZATION; " + out.String() + "SET SESSION AUTHORIZATION " + ident(f.as) + "; "
}
