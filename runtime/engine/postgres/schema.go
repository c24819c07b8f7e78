package postgres

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres/psql"
)

// schema is what has to be done before a dump is restored, by its text without data.
type schema struct {
	roles    []string // named in the dump
	create   string   // options of CREATE DATABASE
	alter    []around // statements about the database
	tables   int64    // how many hold data
	encoding string   // of all of them
	public   bool     // it makes schema public, which a new database has
	owner    string   // ALTER SCHEMA public OWNER
}

// around is a statement about a database, without the database's name.
type around struct{ before, after string }

// maxSchema bounds what is kept of a dump's text, in bytes.
const maxSchema = 8 << 20

// parseSchema reads the text of a dump without data, as far as it goes.
func parseSchema(r io.Reader) (*schema, error) {
	s, kept := &schema{}, 0
	for sc := psql.NewScanner(r, true); ; {
		p, err := sc.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		if p.Whole() {
			kept += s.add(stmt{p.Text, p.Tokens})
		}
		if kept > maxSchema {
			return nil, fmt.Errorf("more than %d bytes about roles and databases: %w", maxSchema, errdefs.ErrInvalidArgument)
		}
	}
}

// add takes note of a statement, and returns how many bytes of it are kept.
func (s *schema) add(st stmt) (kept int) {
	for _, role := range st.roles() {
		if !slices.Contains(s.roles, role) {
			kept += 64 * len(role) // each is compared with all others
			s.roles = append(s.roles, role)
		}
	}
	switch {
	case st.has(0, "CREATE", "TABLE"):
		s.tables++
	case st.has(0, "CREATE", "SCHEMA", "PUBLIC"):
		s.public = true
	case st.has(0, "ALTER", "SCHEMA", "PUBLIC", "OWNER"):
		s.owner = string(st.text)
	case st.has(0, "CREATE", "DATABASE") && st.has(3, "WITH"):
		s.create = string(st.text[st.tokens[3].Start:])
	case st.has(0, "SET", "CLIENT_ENCODING", "=") && s.encoding == "":
		s.encoding = strings.Trim(st.raw(3), "'")
	default:
		if i := st.database(); i > 0 {
			t := st.tokens[i]
			kept += len(st.text)
			s.alter = append(s.alter, around{string(st.text[:t.Start]), string(st.text[t.End:])})
		}
	}
	return kept
}

// database returns where the name of the database is that a statement says something about; 0 for others.
func (s stmt) database() int {
	switch {
	case s.has(0, "ALTER", "DATABASE") && s.has(3, "OWNER|SET|CONNECTION|IS_TEMPLATE"):
		return 2
	case s.has(0, "ALTER", "ROLE|USER") && s.has(3, "IN", "DATABASE") && s.has(6, "SET"):
		return 5
	case s.has(0, "GRANT|REVOKE"):
		return max(0, s.after(1, "ON", "DATABASE"))
	case s.has(0, "COMMENT", "ON", "DATABASE"):
		return 3
	case s.has(0, "SECURITY", "LABEL"):
		return max(0, s.after(2, "ON", "DATABASE"))
	}
	return 0
}

// schemaPipe parses what is written to it.
type schemaPipe struct {
	*io.PipeWriter
	done chan struct{}
	s    *schema
	err  error
}

func newSchemaPipe() *schemaPipe {
	r, w := io.Pipe()
	p := &schemaPipe{PipeWriter: w, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.s, p.err = parseSchema(r)
		_ = r.CloseWithError(p.err) // never fails
	}()
	return p
}

// end returns what was written, as a schema.
func (p *schemaPipe) end() (*schema, error) {
	_ = p.Close() // never fails
	<-p.done
	return p.s, p.err
}
