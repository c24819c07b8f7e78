package psql

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgproto3"
	"pgregory.net/rapid"
)

// listener is a server that does nothing with what it is sent but keep it.
type listener struct {
	net.Listener
	sent chan string
	std  atomic.Bool // standard_conforming_strings of a new session
	now  bool        // and of this one
}

func listen(t *testing.T) *listener {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	s := &listener{Listener: l, sent: make(chan string, 1<<16)}
	t.Cleanup(func() { l.Close() })
	return s
}

// serve answers connections until the listener is closed. Each ends with a message in sent.
func (l *listener) serve() {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if err := l.session(conn, l.std.Load()); err != nil {
			l.sent <- "! " + err.Error()
		}
		conn.Close()
		l.sent <- "."
	}
}

var onOff = map[bool]string{true: "on", false: "off"}

func (l *listener) session(conn net.Conn, std bool) error {
	b := pgproto3.NewBackend(conn, conn)
	l.now = std
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	for k, v := range map[string]string{
		"server_version": "15.0", "client_encoding": "UTF8", "server_encoding": "UTF8", "standard_conforming_strings": onOff[std],
	} {
		b.Send(&pgproto3.ParameterStatus{Name: k, Value: v})
	}
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if err := b.Flush(); err != nil {
		return err
	}
	for {
		msg, err := b.Receive()
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.Query:
			l.sent <- "s:" + msg.String
			if err := l.answer(b, msg.String, std); err != nil {
				return err
			}
		case *pgproto3.Terminate:
			return nil
		}
	}
}

var (
	blankRE = regexp.MustCompile(`(?s)^(?:\s|--[^\n\r]*|/\*.*?\*/)*`)
	// The tests have these statements in no other form.
	copyRE = regexp.MustCompile(`(?i)^COPY t FROM stdin`)
	setRE  = regexp.MustCompile(`SET standard_conforming_strings (?:=|TO) (on|off)`)
	encRE  = regexp.MustCompile(`SET client_encoding ?= ?'(\w+)'`)
)

// answer does what changes how psql reads on.
func (l *listener) answer(b *pgproto3.Backend, sql string, std bool) error {
	rest := sql[len(blankRE.FindString(sql)):]
	if m := setRE.FindStringSubmatch(rest); m != nil && strings.HasPrefix(rest, m[0]) {
		b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: m[1]})
		l.now = m[1] == "on"
	}
	if m := encRE.FindStringSubmatch(rest); m != nil && strings.HasPrefix(rest, m[0]) {
		b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: m[1]})
	}
	if strings.HasPrefix(rest, "RESET ALL") {
		l.now = std
		b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: onOff[std]})
		b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	}
	for range copies(sql, l.now) {
		if err := l.rows(b); err != nil {
			return err
		}
	}
	b.Send(&pgproto3.CommandComplete{CommandTag: []byte("DO")})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return b.Flush()
}

// copies are the COPY statements of a query.
func copies(sql string, std bool) (found []string) {
	for sc := NewScanner(strings.NewReader(sql), std); ; {
		p, err := sc.Next()
		if err != nil {
			return found
		}
		if p.Kind == Statement && copyRE.Match(p.Text) {
			found = append(found, string(p.Text))
		}
	}
}

func (l *listener) rows(b *pgproto3.Backend) error {
	b.Send(&pgproto3.CopyInResponse{ColumnFormatCodes: []uint16{0}})
	if err := b.Flush(); err != nil {
		return err
	}
	var rows strings.Builder
	for {
		msg, err := b.Receive()
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.CopyData:
			rows.Write(msg.Data)
		case *pgproto3.CopyDone:
			l.sent <- "d:" + rows.String()
			return nil
		default:
			return fmt.Errorf("%T within rows", msg)
		}
	}
}

// sends runs psql on a text and returns what it sends: statements and rows.
func (l *listener) sends(t interface{ Fatal(...any) }, psql, text string) (got []string) {
	cmd := exec.Command(psql, "-X", "-q", "-h", filepath.Dir(l.Addr().String()), "-U", "u", "-d", "d", "-f", "-")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err, string(out))
	}
	for m := range l.sent {
		switch {
		case m == ".":
			return got
		case strings.HasPrefix(m, "!"):
			t.Fatal(fmt.Sprintf("%q: %s: %s", text, m, out))
		}
		got = append(got, m)
	}
	return got
}

func findPsql(t *testing.T) string {
	t.Helper()
	all, _ := filepath.Glob("/usr/lib/postgresql/*/bin/psql")
	if len(all) == 0 {
		t.Skip("no psql on this host")
	}
	path := all[len(all)-1]
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`\) (1[5-9]|[2-9]\d)`).Match(out) {
		t.Skipf("%s leaves comments out: it takes 15 or later", out)
	}
	return path
}

// significant is a statement without what comes before it, and without white space: psql takes line feeds
// around its commands away.
func significant(text string) string {
	for sc := NewScanner(strings.NewReader(text), true); ; {
		p, err := sc.Next()
		if err != nil || p.Kind != Blank {
			break
		}
		text = text[len(p.Text):]
	}
	return strings.NewReplacer(" ", "", "\n", "", "\r", "", `\;`, ";", `\:`, ":").Replace(text)
}

// reads returns what the Scanner makes of a text: statements and rows, as sends does.
func reads(t interface{ Fatal(...any) }, text string, std bool) (got []string) {
	var sql string
	open := false
	send := func() {
		if open {
			got = append(got, "s:"+sql)
		}
		sql, open = "", false
	}
	for sc := NewScanner(strings.NewReader(text), std); ; {
		p, err := sc.Next()
		if err != nil {
			send()
			return got
		}
		switch command := p.Command(); {
		case p.Kind == Statement:
			sql, open = sql+string(p.Text), true
			if p.Last {
				send()
			}
		case command == "g":
			send()
		case command == "r":
			sql, open = "", false
		case p.Kind == Data:
			got = append(got, "d:"+string(p.Text))
		}
	}
}

// TestAsPsql compares with psql itself: it has to send the statements and rows that the Scanner sees.
func TestAsPsql(t *testing.T) {
	psql := findPsql(t)
	l := listen(t)
	go l.serve()
	rapid.Check(t, func(t *rapid.T) {
		std := rapid.Bool().Draw(t, "std")
		l.std.Store(std)
		l.compare(t, psql, drawScript(t), std)
	})
}

// scraps are what scripts are put together from.
var scraps = []string{
	";", ";\n", "'", "''", `"`, `""`, "$$", "$a$", "$a", "$", "--", "/*", "*/", "/", "*", `\;`, `\:`, "(", ")", ":", "::", ":=", "\n", "\r\n", " ",
	"E'", "e'", `\'`, "b'", "N'", "U&'", `U&"`, "u&", "1", ".", "a", "é", "_", "-", "+", "@",
	"CREATE ", "OR REPLACE ", "FUNCTION f() ", "PROCEDURE ", " BEGIN ", " ATOMIC ", " CASE ", " END ",
	"COPY t FROM stdin;\n1\n2;'\n\\.\n", "COPY t FROM stdin; SELECT '\n1\n\\.\n", ";COPY t FROM stdin;COPY t FROM stdin;\n1\n\\.\n2\n\\.\n", ";copy t from stdin;\r\n\\.x\r\n\\.\n",
	"SELECT 1;\n", "SELECT 'a'", "SELECT 1 \\g\n", "SELECT 1\\; COPY u TO stdout;", "\\r\n", "\\echo 'a\\'b' \"c\" ;\n", "\\echo a \\\\", "\\qecho\n", "\\! true ' \\\\\n", "\\o /dev/null\n",
	"SET standard_conforming_strings = off;\n", "SET standard_conforming_strings TO on;\n", "SET client_encoding = 'SJIS';\n", "SET client_encoding = 'UTF8';\n", "RESET ALL;\n",
	"'\x95\\'", "E'\x95\\\\'", "\xb1", "GRANT a TO b;\n", "CREATE ROLE a;\n",
}

func drawScript(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(scraps), 0, 40).Draw(t, "scraps"), "")
}

func (l *listener) compare(t *rapid.T, psql, text string, std bool) {
	clean := func(sent []string) []string {
		all := []string{}
		for _, m := range sent {
			if m[:2] == "s:" {
				m = "s:" + significant(m[2:])
			}
			if m != "s:" && m != "s:;" {
				all = append(all, m)
			}
		}
		// The rows of a COPY come behind the rest of its line in the text.
		slices.SortStableFunc(all, func(a, b string) int { return strings.Compare(b[:1], a[:1]) })
		return all
	}
	if diff := cmp.Diff(clean(l.sends(t, psql, text)), clean(reads(t, text, std))); diff != "" {
		t.Fatalf("%q: psql (-) and the Scanner (+): %s", text, diff)
	}
}
