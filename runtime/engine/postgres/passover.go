package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres/psql"
)

// What psql passes over with an error, as it goes on, and what loads all the same: settings of another version, tablespaces, drops of what is
// not there. The filter leaves it out, or says it so that it is no error, and keeps each statement on its lines.

const noTablespaces = "tablespaces are left out: all is in the golden's data directory"

// knows says whether the server knows what a statement sets. Whether it takes the value, psql finds out: the
// dump may make what it names.
func (f *filter) knows(sql string) bool {
	if f.try == nil {
		return true
	}
	why, tried := f.tried[sql]
	if !tried && len(f.tried) < 1000 {
		why = unknownSetting(f.try(sql))
		f.tried[sql] = why
		if why != "" {
			f.tell("left out: " + excerpt(sql) + ": " + why)
		}
	}
	return why == ""
}

func unknownSetting(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42704" && strings.HasPrefix(pgErr.Message, "unrecognized configuration parameter") {
		return oneLine(pgErr.Message)
	}
	return ""
}

// setting is what SET or ALTER … SET sets, as a SET; "" for all else.
func (s stmt) setting() string {
	i := -1
	switch {
	case s.has(0, "SET", "SESSION|LOCAL") && !s.has(2, "AUTHORIZATION|CHARACTERISTICS"):
		i = 2
	case s.has(0, "SET"):
		i = 1
	case s.has(0, "ALTER", "DATABASE") && s.has(3, "SET"):
		i = 4
	case s.has(0, "ALTER", "ROLE|USER") && s.has(3, "SET"):
		i = 4
	case s.has(0, "ALTER", "ROLE|USER") && s.has(3, "IN", "DATABASE") && s.has(6, "SET"):
		i = 7
	}
	if i < 0 || i >= len(s.tokens) || !s.has(i+1, "=|TO") {
		return ""
	}
	return "SET " + string(s.text[s.tokens[i].Start:])
}

// ofTablespaces says that a statement is of tablespaces alone. A clone has one directory.
func (s stmt) ofTablespaces() bool {
	switch {
	case s.has(0, "CREATE|ALTER|DROP", "TABLESPACE"), s.has(0, "COMMENT", "ON", "TABLESPACE"), s.has(0, "ALTER", "DATABASE") && s.has(3, "SET", "TABLESPACE"):
		return true
	case s.has(0, "GRANT|REVOKE"):
		return s.find(1, "ON", "TABLESPACE") > 0
	case s.has(0, "SECURITY", "LABEL"):
		return s.find(2, "ON", "TABLESPACE") > 0
	case s.has(0, "SET", "DEFAULT_TABLESPACE|TEMP_TABLESPACES", "=|TO"):
		return !slices.Contains([]string{"''", `""`, "pg_default", "'pg_default'", "DEFAULT", "default"}, s.raw(3))
	}
	return false
}

// inTablespace is a table or an index that is to lie in a tablespace, without that; nil for others.
func (s stmt) inTablespace() []byte {
	if !s.has(0, "CREATE") || !s.has(1, "TABLE|INDEX|UNLOGGED|UNIQUE") {
		return nil
	}
	i := s.find(3, "TABLESPACE")
	if i < 0 || i+1 >= len(s.tokens) || s.name(i+1) == "" || s.name(i+1) == "pg_default" || s.has(i-1, "WHERE|AND|OR|=") {
		return nil
	}
	out, from := bytes.Clone(s.text), s.tokens[i].Start
	if s.has(i-2, "USING", "INDEX") {
		from = s.tokens[i-2].Start
	}
	for j := from; j < s.tokens[i+1].End; j++ {
		if out[j] != '\n' {
			out[j] = ' '
		}
	}
	return out
}

// Objects whose kind is said by more words than one.
var longKinds = [][]string{
	{"TEXT", "SEARCH", "CONFIGURATION|DICTIONARY|PARSER|TEMPLATE"},
	{"FOREIGN", "DATA", "WRAPPER"},
	{"MATERIALIZED", "VIEW"},
	{"FOREIGN", "TABLE"},
	{"EVENT", "TRIGGER"},
	{"ACCESS", "METHOD"},
	{"OPERATOR", "CLASS|FAMILY"},
	{"USER", "MAPPING"},
	{"PROCEDURAL", "LANGUAGE"},
	{"TRUSTED|PROCEDURAL", "PROCEDURAL|LANGUAGE"},
	{"INDEX", "CONCURRENTLY"},
}

// dropIfThere is what drops something, so that it is no error if that is not there, as pg_restore --if-exists has it, or makes what each
// database has; nil for other statements.
func (s stmt) dropIfThere() []byte {
	const ifExists = " IF EXISTS"
	switch {
	case s.has(0, "CREATE", "SCHEMA", "PUBLIC") && len(s.tokens) == 3: // as pg_dump --schema=public begins
		return s.insert(1, " IF NOT EXISTS")
	case s.has(0, "DROP") && !s.has(1, "OWNED"):
		n := 1
		for _, kind := range longKinds {
			if s.has(1, kind...) {
				n = len(kind)
				break
			}
		}
		if s.has(n+1, "IF", "EXISTS") {
			return nil
		}
		return s.insert(n, ifExists)
	case s.has(0, "ALTER", "TABLE") && !s.has(2, "IF"):
		if i := s.find(3, "DROP", "CONSTRAINT"); i > 0 && !s.has(i+2, "IF") {
			return stmt{s.insert(i+1, ifExists), s.tokens}.insert(1, ifExists)
		}
		if i := s.find(3, "ALTER", "COLUMN"); i > 0 && s.has(i+3, "DROP", "DEFAULT") {
			return s.insert(1, ifExists)
		}
	case s.has(0, "SELECT", "PG_CATALOG", ".", "LO_UNLINK", "(") && s.has(6, ")") && len(s.tokens) == 7:
		id := s.raw(5)
		return []byte("SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = " + id + ";" +
			strings.Repeat("\n", bytes.Count(s.text, []byte{'\n'})))
	}
	return nil
}

// insert is the statement with text behind a token.
func (s stmt) insert(token int, text string) []byte {
	if token >= len(s.tokens) {
		return s.text
	}
	end := s.tokens[token].End
	return slices.Concat(s.text[:end], []byte(text), s.text[end:])
}

// keepAdmin is ALTER ROLE of the superuser that the golden is built by, with what it would lose by it: pg_dumpall of a managed server
// has it, whose postgres is none. nil for other statements.
func (f *filter) keepAdmin(s stmt) []byte {
	if !s.has(0, "ALTER|CREATE", "ROLE|USER") || s.name(2) != f.admin || f.admin == "" {
		return nil
	}
	out := bytes.Clone(s.text)
	lost := false
	for i := 3; i < len(s.tokens); i++ {
		if s.has(i, "NOSUPERUSER|NOLOGIN") {
			t := s.tokens[i]
			copy(out[t.Start:t.End], "  ")
			lost = true
		}
	}
	if !lost {
		return nil
	}
	f.tell(fmt.Sprintf("role %s stays a superuser with a login, which the dump's is not: the golden is built by it", f.admin))
	return out
}

// grantedBy is the grant of a role by another, which servers from 16 on refuse where that has not been granted it: then the
// membership is granted by who loads the dump. nil for other statements.
func (f *filter) grantedBy(s stmt) []byte {
	i := s.find(1, "GRANTED", "BY")
	if f.version < 16 || i < 0 || !s.has(0, "GRANT") || s.find(1, "ON") > 0 || bytes.ContainsAny(bytes.TrimSpace(s.text), "\n$") {
		return nil
	}
	whole := strings.TrimSuffix(strings.TrimSpace(string(s.text)), ";")
	rest := strings.TrimSpace(whole[:s.tokens[i].Start])
	return []byte("DO $ctrsnap$ BEGIN " + whole + "; EXCEPTION WHEN insufficient_privilege OR invalid_grant_operation THEN " + rest +
		"; RAISE WARNING 'granted by the superuser, not as the dump says'; END $ctrsnap$;")
}

// tell notes what the caller is to be told, once.
func (f *filter) tell(text string) {
	if !slices.Contains(f.told, text) && len(f.told) < 100 {
		f.told = append(f.told, text)
	}
}

// place is where something that pg_dump names in a comment begins.
type place struct {
	line int
	name string
}

// note remembers what the text is about, by pg_dump's comments.
func (f *filter) note(p psql.Piece) {
	text := p.Text
	line := p.Line
	for len(f.places) < 1<<17 {
		i := bytes.Index(text, []byte("-- "))
		if i < 0 {
			return
		}
		line += bytes.Count(text[:i], []byte{'\n'})
		end := bytes.IndexByte(text[i:], '\n')
		if end < 0 {
			end = len(text) - i
		}
		if m := nameRE2.FindSubmatch(text[i : i+end]); m != nil {
			name := string(m[2]) + " "
			if schema := string(m[3]); schema != "-" {
				name += schema + "."
			}
			f.places = append(f.places, place{line, strings.ToValidUTF8(name+string(m[1]), "?")})
		}
		text = text[i+end:]
	}
}

// object is what the text at a line is about; "" if unknown.
func (f *filter) object(line int) string {
	i, found := slices.BinarySearchFunc(f.places, line, func(p place, line int) int { return p.line - line })
	if !found {
		i--
	}
	if i < 0 {
		return ""
	}
	return f.places[i].name
}
