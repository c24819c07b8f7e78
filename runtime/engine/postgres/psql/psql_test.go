package psql

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// divide returns the pieces of a text. Those that only the size of the buffer or of what was read divides are put
// together again.
func divide(t interface{ Fatal(...any) }, r io.Reader, std bool) (pieces []string, texts []Piece) {
	sc := NewScanner(r, std)
	open := false
	for {
		p, err := sc.Next()
		if errors.Is(err, io.EOF) {
			return pieces, texts
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Text) == 0 {
			t.Fatal("empty piece")
		}
		text := string(p.Text)
		p.Text, p.Tokens, p.Verb = []byte(text), append([]Token(nil), p.Tokens...), append([]byte(nil), p.Verb...)
		same := len(texts) > 0 && texts[len(texts)-1].Kind == p.Kind && (p.Kind != Statement || open)
		open = p.Kind == Statement && !p.Last
		if same {
			last := &texts[len(texts)-1]
			last.Text = append(last.Text, text...)
			pieces[len(pieces)-1] += text
			last.Last = p.Last
			continue
		}
		pieces = append(pieces, "bscd"[p.Kind:p.Kind+1]+":"+text)
		texts = append(texts, p)
	}
}

func TestDivide(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", nil},
		{"statements", "SELECT 1; SELECT 2\n;\n", []string{"s:SELECT 1;", "b: ", "s:SELECT 2\n;", "b:\n"}},
		{"no end", "SELECT 1", []string{"s:SELECT 1"}},
		{"string", "SELECT 'a;\n\\restrict x\n''b;'; \\restrict y\n", []string{"s:SELECT 'a;\n\\restrict x\n''b;';", "b: ", "c:\\restrict y", "b:\n"}},
		{"backslash in a string", `SELECT 'a\';'b`, []string{`s:SELECT 'a\';`, `s:'b`}},
		{"escapes", `SELECT E'a\';\\';1`, []string{`s:SELECT E'a\';\\';`, "s:1"}},
		{"escapes, doubled", `SELECT e'a''\'';1`, []string{`s:SELECT e'a''\'';`, "s:1"}},
		{"no escapes behind a word", `SELECT type'\';1`, []string{`s:SELECT type'\';`, "s:1"}},
		{"national", `SELECT n'\';1`, []string{`s:SELECT n'\';`, "s:1"}},
		{"unicode", `SELECT U&'\';U&"\";1`, []string{`s:SELECT U&'\';`, `s:U&"\";`, "s:1"}},
		{"identifier", `SELECT "a;""b;" ; 1`, []string{`s:SELECT "a;""b;" ;`, "b: ", "s:1"}},
		{"dollar", "SELECT $$;$a$;$$;$a$;$$;$a$;1", []string{"s:SELECT $$;$a$;$$;", "s:$a$;$$;$a$;", "s:1"}},
		{"dollar with another's beginning", "SELECT $ab$ $a$ $ab $ab$;1", []string{"s:SELECT $ab$ $a$ $ab $ab$;", "s:1"}},
		{"no dollar quote", "SELECT a$b$;$1$$;$$;1", []string{"s:SELECT a$b$;", "s:$1$$;$$;", "s:1"}},
		{"remark", "-- a;'\nSELECT 1 -- b;'\n;", []string{"b:-- a;'\n", "s:SELECT 1 -- b;'\n;"}},
		{"remark to a carriage return", "-- a\rSELECT 1;", []string{"b:-- a\r", "s:SELECT 1;"}},
		{"comment", "/* a; /* ' */ ; */ SELECT /*;*/ 1;", []string{"b:/* a; /* ' */ ; */ ", "s:SELECT /*;*/ 1;"}},
		{"operators", "SELECT 1 */2; SELECT 1 +/*;*/ 2 +--;\n;", []string{"s:SELECT 1 */2;", "b: ", "s:SELECT 1 +/*;*/ 2 +--;\n;"}},
		{"parentheses", "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);;", []string{"s:CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);", "s:;"}},
		{"atomic", "CREATE OR REPLACE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END; SELECT 3;",
			[]string{"s:CREATE OR REPLACE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END;", "b: ", "s:SELECT 3;"}},
		{"transaction", "BEGIN; SELECT 1; END;", []string{"s:BEGIN;", "b: ", "s:SELECT 1;", "b: ", "s:END;"}},
		{"copy", "COPY t (a) FROM stdin;\n1;'\n\\.x\n\\.\nSELECT 1;", []string{"s:COPY t (a) FROM stdin;", "b:\n", "d:1;'\n\\.x\n\\.\n", "s:SELECT 1;"}},
		{"copy, CRLF", "copy t from STDIN WITH (FORMAT csv);\r\n1\r\n\\.\r\n;", []string{"s:copy t from STDIN WITH (FORMAT csv);", "b:\r\n", "d:1\r\n\\.\r\n", "s:;"}},
		{"copies and a string on one line", "COPY t FROM stdin; COPY u FROM stdin; SELECT 'a\n1\n\\.\n2\n\\.\n;b';",
			[]string{"s:COPY t FROM stdin;", "b: ", "s:COPY u FROM stdin;", "b: ", "s:SELECT 'a\n", "d:1\n\\.\n2\n\\.\n", "s:;b';"}},
		{"copy by one query of several", "SELECT 1\\; COPY t FROM stdin\\; SELECT 2;\n1\n\\.\n;",
			[]string{"s:SELECT 1\\; COPY t FROM stdin\\; SELECT 2;", "b:\n", "d:1\n\\.\n", "s:;"}},
		{"no copy", "COPY t TO stdin; COPY (SELECT a FROM stdin) TO stdout; SELECT 1 FROM stdin;\n\\restrict a\n",
			[]string{"s:COPY t TO stdin;", "b: ", "s:COPY (SELECT a FROM stdin) TO stdout;", "b: ", "s:SELECT 1 FROM stdin;", "b:\n", "c:\\restrict a", "b:\n"}},
		{"no copy behind a dollar sign", "$COPY t FROM stdin;\nSELECT 1;", []string{"s:$COPY t FROM stdin;", "b:\n", "s:SELECT 1;"}},
		{"copy of psql", "\\copy t (a) from stdin with (null 'x')\n1\n\\.\n\\copy \"a from stdin\" from 'stdin'\n;",
			[]string{"c:\\copy t (a) from stdin with (null 'x')", "b:\n", "d:1\n\\.\n", "c:\\copy \"a from stdin\" from 'stdin'", "b:\n", "s:;"}},
		{"copy sent by a command", "COPY t FROM stdin \\g\n1\n\\.\n;", []string{"s:COPY t FROM stdin ", "c:\\g", "b:\n", "d:1\n\\.\n", "s:;"}},
		{"command within a statement", "SELECT \\echo ';' \\\\ 1\\g a\n;", []string{"s:SELECT ", "c:\\echo ';' \\\\", "s: 1", "c:\\g a", "b:\n", "s:;"}},
		{"commands", "\\set a 'b\\\\ \\'c' \\echo `x\\\\y` \\o |cat \\\\ \\echo\n\\! a \\\\ b\n", []string{
			"c:\\set a 'b\\\\ \\'c' \\echo `x\\\\y` \\o |cat \\\\ \\echo", "b:\n", "c:\\! a \\\\ b", "b:\n"}},
		{"strings that are not standard", "SET standard_conforming_strings = off; SELECT '\\';\nSELECT '\\';';\nRESET ALL;\nSELECT '\\';1",
			[]string{"s:SET standard_conforming_strings = off;", "b: ", "s:SELECT '\\';", "b:\n", "s:SELECT '\\';';", "b:\n", "s:RESET ALL;", "b:\n", "s:SELECT '\\';", "s:1"}},
		{"shift-jis", "SET client_encoding = 'SJIS';\nSELECT E'\x95\\';1", []string{"s:SET client_encoding = 'SJIS';", "b:\n", "s:SELECT E'\x95\\';", "s:1"}},
		{"byte order mark", "\xef\xbb\xbfSELECT 1;", []string{"b:\xef\xbb\xbf", "s:SELECT 1;"}},
		{"variables", "SELECT :'a;b' , :a$$;$$, a::begin, :{?x};1", []string{"s:SELECT :'a;b' , :a$$;$$, a::begin, :{?x};", "s:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.text), iotest.OneByteReader(strings.NewReader(tt.text)), iotest.DataErrReader(strings.NewReader(tt.text))} {
				if got, _ := divide(t, r, true); cmp.Diff(tt.want, got) != "" {
					t.Error(cmp.Diff(tt.want, got))
				}
			}
		})
	}
}

func TestLongStatements(t *testing.T) {
	for _, n := range []int{MaxWhole - 100, MaxWhole, bufferSize, 3*bufferSize + 7} {
		long := strings.Repeat("x", n)
		text := "GRANT ALL ON a TO b;SELECT '" + long + "';SELECT " + long + ";/*" + long + "*/$" + long[:maxTag/2] + "$" + long +
			"$" + long[:maxTag/2] + "$;COPY t FROM stdin;\n" + long + "\n\\.\n\\echo " + long + "\nGRANT ALL ON a TO c;"
		pieces, texts := divide(t, strings.NewReader(text), true)
		if len(pieces) != 11 {
			t.Fatalf("%d bytes: %d pieces", n, len(pieces))
		}
		if strings.Join(trimAll(pieces), "") != text {
			t.Error("the pieces are not the text")
		}
		if last := texts[len(texts)-1]; !last.Whole() || len(last.Tokens) != 6 || last.Line != 5 {
			t.Errorf("last: %+v", last)
		}
	}
}

func trimAll(pieces []string) []string {
	for i, p := range pieces {
		pieces[i] = p[2:]
	}
	return pieces
}

func TestTagTooLong(t *testing.T) {
	sc := NewScanner(strings.NewReader("SELECT $"+strings.Repeat("x", 2*maxTag)+"$"), true)
	for {
		_, err := sc.Next()
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrTag) {
			t.Error(err)
		}
		return
	}
}

// soup are texts that mean something to psql, somewhere.
var soup = []string{
	";", "'", "''", "\"", "$$", "$a$", "$", "--", "/*", "*/", "\\", "\\\\", "\\;", "\\:", "(", ")", ":", "::", "\n", "\r\n", "\n\\.\n", " ", "\t",
	"E'", "e'\\'", "b'", "N'", "U&'", "U&\"", "u&", "1", "1e", ".", "a", "é", "\xff", "\x95\\",
	"CREATE ", "OR REPLACE ", "FUNCTION f() ", "PROCEDURE ", " BEGIN ", " ATOMIC ", " CASE ", " END ", "COPY t FROM stdin", "COPY ", " FROM ", " stdin ",
	"\\copy t from stdin\n", "\\g", "\\r", "\\echo a", "\\! ", "`", "|", "\\restrict x", "\\connect a", "\\q", "\\encoding SJIS\n",
	"SET standard_conforming_strings = off;", "SET standard_conforming_strings TO on;", "SET client_encoding='GBK';", "RESET ALL;", "COMMIT;",
	"SELECT 1;", "GRANT a TO b;", "\xef\xbb\xbf", "\x00",
}

// TestChunks says that pieces do not depend on how the text is read.
func TestChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOf(rapid.SampledFrom(soup)).Draw(t, "soup"), "")
		std := rapid.Bool().Draw(t, "std")
		checkChunks(t, text, std)
	})
}

func FuzzScanner(f *testing.F) {
	for _, s := range soup {
		f.Add("SELECT 1;"+s+"SELECT 2;\n", true)
	}
	f.Fuzz(func(t *testing.T, text string, std bool) { checkChunks(t, text, std) })
}

func checkChunks(t interface {
	Fatal(...any)
	Helper()
}, text string, std bool,
) {
	t.Helper()
	pieces, texts := divide(t, strings.NewReader(text), std)
	again, others := divide(t, iotest.OneByteReader(strings.NewReader(text)), std)
	if diff := cmp.Diff(pieces, again); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff(texts, others); diff != "" {
		t.Fatal(diff)
	}
	line := 1
	for _, p := range texts {
		if p.Line != line {
			t.Fatal(fmt.Sprintf("%q is said to be in line %d, it is in %d", p.Text, p.Line, line))
		}
		line += bytes.Count(p.Text, []byte("\n"))
		end := 0
		for _, tok := range p.Tokens {
			if tok.Start < end || tok.End <= tok.Start || tok.End > len(p.Text) {
				t.Fatal(fmt.Sprintf("%q: token %v", p.Text, tok))
			}
			end = tok.End
		}
	}
	if got := strings.Join(trimAll(pieces), ""); got != text {
		t.Fatal(fmt.Sprintf("%q became %q", text, got))
	}
}

func BenchmarkScanner(b *testing.B) {
	row := strings.Repeat("12345\tsome text of a row\t2024-01-01 00:00:00\t\\N\n", 20000)
	insert := strings.Repeat("INSERT INTO public.items (id, name, at) VALUES (12345, 'some text of a row', '2024-01-01 00:00:00', NULL);\n", 10000)
	for _, bm := range []struct{ name, text string }{
		{"copy", "COPY t FROM stdin;\n" + row + "\\.\n"},
		{"inserts", insert},
		{"rows of one insert", "INSERT INTO t VALUES " + strings.Repeat("(12345, 'some text of a row', '2024-01-01 00:00:00', NULL),\n", 20000) + ";"},
		{"dollar quotes", strings.Repeat("CREATE FUNCTION f() AS $$"+strings.Repeat("x = y;\n", 100)+"$$;\n", 1000)},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.SetBytes(int64(len(bm.text)))
			for b.Loop() {
				for sc := NewScanner(strings.NewReader(bm.text), true); ; {
					if _, err := sc.Next(); err != nil {
						break
					}
				}
			}
		})
	}
}
