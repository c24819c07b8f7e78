package postgres

import (
	"bufio"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync/atomic"

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

// restorePlain sends a dump through psql. On the way, missing roles are made
// as their names come by, and what cannot work is left out.
func (b *build) restorePlain(ctx context.Context, d plainDump) error {
	database := "postgres"
	if d.cluster {
		b.cluster = true
	} else {
		if err := b.chooseDatabase(ctx); err != nil {
			return err
		}
		database = b.st.DB
	}
	roles, err := b.query(ctx, "postgres", "SELECT quote_ident(rolname) FROM pg_catalog.pg_roles")
	if err != nil {
		return err
	}
	in := &source.Reader{R: d.r}
	f := newFilter(ctx, b, in, d.cluster, roles)
	err = b.watch(d.read, d.size, func() error { return b.psql(ctx, d.name, database, "-", f) })
	switch {
	case in.Err != nil:
		return source.UnpackError(d.name, in.Err)
	case f.err != nil:
		return f.err
	case err != nil:
		return err
	case truncated(d.head, []byte(f.end.String())):
		return dumpError(d.name, "the dump is cut short: its last line is missing")
	}
	return nil
}

// filter is the text of a dump as psql gets it.
type filter struct {
	ctx     context.Context //nolint:containedctx // lives as long as one restore
	b       *build
	src     *bufio.Reader
	cluster bool
	known   map[string]bool // roles
	data    bool            // within the rows of a COPY
	long    bool            // within a line that is longer than the buffer
	end     tail
	out     []byte
	err     error // other than of src
}

func newFilter(ctx context.Context, b *build, r io.Reader, cluster bool, roles []string) *filter {
	f := &filter{ctx: ctx, b: b, src: bufio.NewReaderSize(r, 256<<10), cluster: cluster, known: map[string]bool{}}
	for _, role := range roles {
		f.known[role] = true
	}
	return f
}

// Read implements io.Reader.
func (f *filter) Read(p []byte) (int, error) {
	for len(f.out) == 0 {
		chunk, err := f.src.ReadSlice('\n')
		whole := !errors.Is(err, bufio.ErrBufferFull)
		if len(chunk) == 0 && err != nil {
			return 0, err
		}
		_, _ = f.end.Write(chunk) // never fails
		if f.long || !whole || f.pass(string(chunk)) {
			f.out = chunk
		}
		f.long = !whole
		if f.err != nil {
			return 0, io.EOF
		}
	}
	n := copy(p, f.out)
	f.out = f.out[n:]
	return n, nil
}

var (
	copyRE     = regexp.MustCompile(`^COPY .* FROM stdin;$`)
	makeRoleRE = regexp.MustCompile(`^CREATE (?:ROLE|USER) ` + name)
	dropRoleRE = regexp.MustCompile(`^DROP ROLE (?:IF EXISTS )?` + name + `;$`)
	// restrictRE guards psql on a person's machine from the server that the
	// dump came from. Older ones do not know it, and here psql is confined.
	restrictRE = regexp.MustCompile(`^\\(?:un)?restrict [0-9A-Za-z]+$`)
)

// pass says whether psql gets a line.
func (f *filter) pass(line string) bool {
	if f.data {
		f.data = strings.TrimRight(line, "\r\n") != `\.`
		return true
	}
	// Few lines of a dump are more than rows, and those are short.
	if len(line) > 4096 {
		return true
	}
	line = strings.TrimRight(line, "\r\n")
	if copyRE.MatchString(line) {
		f.data = true
		return true
	}
	if restrictRE.MatchString(line) {
		return false
	}
	if m := makeRoleRE.FindStringSubmatch(line); m != nil {
		// pg_dumpall writes the first superuser as well, who is there.
		exists := f.known[m[1]]
		f.known[m[1]] = true
		return !exists || !f.cluster
	}
	if m := dropRoleRE.FindStringSubmatch(line); m != nil && f.cluster {
		return !f.known[m[1]]
	}
	if !f.cluster {
		f.makeRoles(line)
	}
	return true
}

func (f *filter) makeRoles(line string) {
	for _, role := range rolesOf(line) {
		if f.known[role] || f.err != nil {
			continue
		}
		f.known[role] = true
		_, f.err = f.b.query(f.ctx, "postgres", "CREATE ROLE "+role+" NOLOGIN")
	}
}
