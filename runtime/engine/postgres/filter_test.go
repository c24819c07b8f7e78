package postgres

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"
)

func rolesIn(t *testing.T, text string) []string {
	t.Helper()
	s, err := parseSchema(strings.NewReader(text))
	must(t, err)
	return s.roles
}

func TestRolesOfDump(t *testing.T) {
	for text, want := range map[string][]string{
		`ALTER TABLE public.a OWNER TO bob;`:                                                      {"bob"},
		`alter large object 777 owner to "Bob ""B""";`:                                            {`Bob "B"`},
		`ALTER FUNCTION public.f(owner text) OWNER TO Bob;`:                                       {"bob"},
		`ALTER TABLE a RENAME COLUMN owner TO possessor;`:                                         nil,
		`GRANT SELECT,INSERT ON TABLE public.a TO "Odd ""One" WITH GRANT OPTION;`:                 {`Odd "One`},
		`GRANT ALL ON FUNCTION public.f("to" integer) TO GROUP a, b GRANTED BY c;`:                {"a", "b", "c"},
		`GRANT SELECT(a),UPDATE(b) ON TABLE public.t TO x;`:                                       {"x"},
		`REVOKE GRANT OPTION FOR ALL ON SCHEMA public FROM a CASCADE;`:                            {"a"},
		`REVOKE ALL ON SCHEMA public FROM PUBLIC;`:                                                nil,
		`GRANT ALL ON SCHEMA public TO PUBLIC, "public", CURRENT_USER;`:                           nil,
		`GRANT pg_read_all_data TO x;`:                                                            {"x"},
		`ALTER DEFAULT PRIVILEGES FOR ROLE a IN SCHEMA public GRANT SELECT ON TABLES  TO b;`:      {"a", "b"},
		`ALTER DEFAULT PRIVILEGES FOR USER a, c REVOKE ALL ON FUNCTIONS FROM PUBLIC, d;`:          {"a", "c", "d"},
		`CREATE POLICY p ON public.t FOR SELECT TO a, "B c" USING ((id > 1));`:                    {"a", "B c"},
		`CREATE POLICY p ON public.t USING (true);`:                                               nil,
		`CREATE USER MAPPING FOR u SERVER s; CREATE USER MAPPING IF NOT EXISTS FOR PUBLIC SERVER`: {"u"},
		`CREATE SCHEMA s AUTHORIZATION "S"; CREATE SCHEMA AUTHORIZATION t;`:                       {"S", "t"},
		`SET SESSION AUTHORIZATION 'o''brien'; SET SESSION AUTHORIZATION DEFAULT;`:                {"o'brien"},
		`SET LOCAL SESSION AUTHORIZATION x; RESET SESSION AUTHORIZATION;`:                         {"x"},
		`ALTER ROLE app IN DATABASE shop SET work_mem TO '1MB';`:                                  {"app"},
		`COMMENT ON TABLE a IS 'ALTER TABLE a OWNER TO ghost;';`:                                  nil,
		"CREATE FUNCTION f() AS $$\nGRANT ALL ON a TO ghost;\n$$;":                                nil,
		`CREATE DATABASE d OWNER a; CREATE DATABASE e WITH OWNER = b;`:                            {"a", "b"},
		`SELECT 1;`:                                 nil,
		`GRANT ALL ON a TO U&"\0041";`:              nil,
		`GRANT /* TO ghost */ ALL ON a TO /**/ b ;`: {"b"},
	} {
		if diff := cmp.Diff(want, rolesIn(t, text)); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestSchemaOfDump(t *testing.T) {
	s, err := parseSchema(strings.NewReader(`CREATE DATABASE shop WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'C';
SET client_encoding = 'LATIN1';
ALTER DATABASE shop OWNER TO boss;
ALTER DATABASE shop SET work_mem TO '7MB';
ALTER ROLE app IN DATABASE "shop" SET search_path TO 'a', 'b';
COMMENT ON DATABASE shop IS 'of
ALTER DATABASE shop SET x TO y;
many lines';
REVOKE ALL ON DATABASE shop FROM PUBLIC;
CREATE TABLE t (a int);
COMMENT ON TABLE t IS '
CREATE TABLE t';
`))
	must(t, err)
	want := &schema{
		roles: []string{"boss", "app"}, create: "WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'C';", tables: 1, encoding: "LATIN1",
		alter: []around{
			{"ALTER DATABASE ", " OWNER TO boss;"},
			{"ALTER DATABASE ", " SET work_mem TO '7MB';"},
			{"ALTER ROLE app IN DATABASE ", " SET search_path TO 'a', 'b';"},
			{"COMMENT ON DATABASE ", " IS 'of\nALTER DATABASE shop SET x TO y;\nmany lines';"},
			{"REVOKE ALL ON DATABASE ", " FROM PUBLIC;"},
		},
	}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(schema{}, around{})); diff != "" {
		t.Error(diff)
	}
}

// filtered is what psql gets of a dump.
func filtered(t interface{ Fatal(...any) }, text string, cluster bool, roles ...string) string {
	f := newFilter(strings.NewReader(text), true, cluster, roles)
	f.admin = "root"
	f.try = func(sql string) error {
		if strings.Contains(sql, "transaction_timeout") {
			return &pgconn.PgError{Code: "42704", Message: `unrecognized configuration parameter "transaction_timeout"`}
		}
		return nil
	}
	out, err := io.ReadAll(f)
	if err != nil || f.err != nil {
		t.Fatal(err, f.err)
	}
	return string(out)
}

func making(role string) string {
	return `SELECT $ctrsnap$CREATE ROLE "` + role + `" NOLOGIN$ctrsnap$ WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $ctrsnap$` +
		role + `$ctrsnap$) \gexec \\ `
}

func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		cluster    bool
		want       string
	}{
		{"restrict", "\\restrict a\r\nSELECT 1;\n\\unrestrict a\n", false, "\nSELECT 1;\n\n"},
		{"role", "GRANT a TO b; ALTER TABLE t OWNER TO b;\n", false, making("b") + "GRANT a TO b; ALTER TABLE t OWNER TO b;\n"},
		{"role that is there", "GRANT a TO boss;\n", false, "GRANT a TO boss;\n"},
		{"role of the dump", "CREATE ROLE b LOGIN;\nGRANT a TO b;\n", false, "CREATE ROLE b LOGIN;\nGRANT a TO b;\n"},
		{"role as another", "SET SESSION AUTHORIZATION 'boss';\nGRANT a TO b;", false, "SET SESSION AUTHORIZATION 'boss';\nRESET SESSION AUTHORIZATION; " +
			making("b") + `SET SESSION AUTHORIZATION "boss"; GRANT a TO b;`},
		{"roles of a cluster", "DROP ROLE boss;\nDROP ROLE\nIF EXISTS boss;CREATE ROLE boss;\nCREATE ROLE b;\nALTER ROLE b;\n", true,
			"\n\n\nCREATE ROLE b;\nALTER ROLE b;\n"},
		{"roles that are there, not of a cluster", "DROP ROLE boss;\nCREATE ROLE boss;\nCREATE ROLE boss;\n", false, "DROP ROLE IF EXISTS boss;\nCREATE ROLE boss;\n\n"},
		{"unknown settings", "SET transaction_timeout = 0;\nSET x.y = 1;\nALTER DATABASE d SET\n transaction_timeout TO '1';\nALTER ROLE boss IN DATABASE d SET transaction_timeout TO '1';SET work_mem = 1;\n",
			false, "\nSET x.y = 1;\n\n\nSET work_mem = 1;\n"},
		{"tablespaces", "CREATE TABLESPACE t LOCATION '/x';\nSET default_tablespace = t;\nSET default_tablespace = '';\nGRANT ALL ON TABLESPACE t TO boss;\nALTER DATABASE d SET TABLESPACE t;\n" +
			"CREATE TABLE a (tablespace int) TABLESPACE t;\nCREATE UNIQUE INDEX ON a (b) TABLESPACE\nt WHERE tablespace = 1;\n", false,
			"\n\nSET default_tablespace = '';\n\n\nCREATE TABLE a (tablespace int)             ;\nCREATE UNIQUE INDEX ON a (b)           \n  WHERE tablespace = 1;\n"},
		{"drops", "DROP TABLE a.b;\nDROP TEXT SEARCH PARSER a;\nDROP MATERIALIZED VIEW IF EXISTS a;\nDROP FUNCTION a(b int);\nDROP CAST (a AS b);\nALTER TABLE ONLY a.b DROP CONSTRAINT c;\n" +
			"ALTER TABLE a ALTER COLUMN b DROP DEFAULT;\nSELECT pg_catalog.lo_unlink('7');\nDROP OWNED BY boss;\nALTER TABLE a DROP COLUMN b;\n", false,
			"DROP TABLE IF EXISTS a.b;\nDROP TEXT SEARCH PARSER IF EXISTS a;\nDROP MATERIALIZED VIEW IF EXISTS a;\nDROP FUNCTION IF EXISTS a(b int);\nDROP CAST IF EXISTS (a AS b);\n" +
				"ALTER TABLE IF EXISTS ONLY a.b DROP CONSTRAINT IF EXISTS c;\nALTER TABLE IF EXISTS a ALTER COLUMN b DROP DEFAULT;\n" +
				"SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = '7';\nDROP OWNED BY boss;\nALTER TABLE a DROP COLUMN b;\n"},
		{"superuser that stays one", "ALTER ROLE root WITH NOSUPERUSER CREATEDB NOLOGIN;\nALTER ROLE boss WITH NOSUPERUSER;\n", true,
			"ALTER ROLE root WITH   SUPERUSER CREATEDB   LOGIN;\nALTER ROLE boss WITH NOSUPERUSER;\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, filtered(t, tt.text, tt.cluster, "boss")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// lines are what a dump's texts may hold: lines of a dump.
var lines = []string{
	`\restrict abc123`, `\unrestrict abc123`, `\connect shop`, `\.`, `\`, `\\`, `\;`, `\echo a`, `\gexec`, "CREATE ROLE ghost LOGIN;", "DROP ROLE ghost;",
	"DROP ROLE IF EXISTS boss;", "CREATE ROLE boss;", "CREATE USER boss;", "ALTER TABLE public.orders OWNER TO ghost;", "GRANT SELECT ON TABLE t TO ghost;",
	"REVOKE ALL ON SCHEMA public FROM ghost;", "SET SESSION AUTHORIZATION 'ghost';", "CREATE DATABASE ghost;", "COPY t FROM stdin;", "COPY t (a) FROM stdin WITH (FORMAT csv);",
	"SET standard_conforming_strings = off;", "SET client_encoding = 'SJIS';", "--", "-- PostgreSQL database dump complete", "/*", "*/", "'", "''", `"`, "$$", "$_$", "$ghost$", "(", ")", ";",
	"BEGIN ATOMIC", "END", "CASE", "CREATE FUNCTION f() RETURNS int", "E'", `\'`, "é", "\t", "", ":ghost", ":'ghost'", "\\copy t from stdin",
}

// drawText draws a text of lines.
func drawText(t *rapid.T) string {
	end := rapid.SampledFrom([]string{"\n", "\r\n", " "}).Draw(t, "end")
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(lines), 0, 6).Draw(t, "lines"), end)
}

// The ways in which a dump may hold a text. Each is whole: what follows it begins anew.
var holders = []func(id int, text string) string{
	func(id int, text string) string { // as pg_dump --inserts
		return fmt.Sprintf("INSERT INTO public.wiki VALUES (%d, %s);\n", id, quote(text))
	},
	func(id int, text string) string {
		return fmt.Sprintf("INSERT INTO public.wiki VALUES (%d, %s);", id, literal(text))
	},
	func(id int, text string) string {
		return fmt.Sprintf("COPY public.wiki (id, page) FROM stdin;\n%d\t%s\n\\.\n\n", id, copyText(text))
	},
	func(id int, text string) string {
		return fmt.Sprintf("COPY public.wiki FROM stdin WITH (FORMAT csv);\n%d,%s\n\\.\n", id, csvText(text))
	},
	func(id int, text string) string {
		return fmt.Sprintf("CREATE FUNCTION public.f%d() RETURNS text LANGUAGE sql AS %s;\nINSERT INTO public.wiki VALUES (%d, public.f%d());\n",
			id, dollarQuote("SELECT "+literal(text)), id, id)
	},
	func(id int, text string) string {
		return fmt.Sprintf("CREATE FUNCTION public.f%d() RETURNS text LANGUAGE sql BEGIN ATOMIC\n SELECT 1;\n SELECT CASE WHEN true THEN %s END;\nEND;\nINSERT INTO public.wiki VALUES (%d, public.f%d());\n",
			id, quote(text), id, id)
	},
	func(id int, text string) string {
		return fmt.Sprintf("/* %s */ INSERT INTO public.wiki VALUES (%d, NULL);\n", strings.NewReplacer("/*", "", "*/", "").Replace(text), id)
	},
	func(id int, text string) string {
		return fmt.Sprintf("-- %s\nINSERT INTO public.wiki VALUES (%d, NULL);\n", strings.NewReplacer("\n", " ", "\r", " ").Replace(text), id)
	},
	func(id int, text string) string {
		return fmt.Sprintf("CREATE VIEW public.v%d AS SELECT 1 AS %s;\nINSERT INTO public.wiki SELECT %d, attname FROM pg_attribute WHERE attrelid = 'public.v%d'::regclass;\n",
			id, ident("a"+text), id, id)
	},
	func(id int, text string) string {
		return fmt.Sprintf("SET standard_conforming_strings = off;\nINSERT INTO public.wiki VALUES (%d, %s);\nSET standard_conforming_strings = on;\n",
			id, "'"+strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text)+"'")
	},
	func(id int, text string) string {
		return fmt.Sprintf("INSERT INTO public.wiki VALUES (%d, %s);\n", id, dollarQuote(text))
	},
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func copyText(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s)
}

// csvText has no line that ends rows: there is no way to write it.
func csvText(s string) string {
	return `"` + strings.ReplaceAll(regexp.MustCompile(`(?m)^\\\.\r?$`).ReplaceAllString(s, "."), `"`, `""`) + `"`
}

func dollarQuote(s string) string {
	for tag := "$_$"; ; tag = "$_" + tag[1:] {
		if !strings.Contains(s+"$", tag) {
			return tag + s + tag
		}
	}
}

// drawDump draws a dump whose texts hold lines of dumps.
func drawDump(t *rapid.T) string {
	out := "CREATE TABLE public.wiki (id integer, page text);\n"
	for id := range rapid.IntRange(1, 8).Draw(t, "rows") {
		out += rapid.SampledFrom(holders).Draw(t, "holder")(id, drawText(t))
	}
	return out
}

// TestFilterKeepsTexts says that nothing in a text is taken for a line of the dump.
func TestFilterKeepsTexts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, cluster := drawDump(t), rapid.Bool().Draw(t, "cluster")
		if got := filtered(t, text, cluster, "boss"); got != text {
			t.Fatal(cmp.Diff(text, got))
		}
		// And after the texts the dump goes on.
		end := "\\restrict x\nGRANT SELECT ON TABLE public.wiki TO reader;\n"
		want := text + "\n" + making("reader") + "GRANT SELECT ON TABLE public.wiki TO reader;\n"
		if got := filtered(t, text+end, cluster, "boss"); got != want {
			t.Fatal(cmp.Diff(want, got))
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add("GRANT SELECT ON TABLE a TO b;\nCREATE DATABASE x WITH TEMPLATE = template0;\n\\restrict a\n", false)
	f.Fuzz(func(t *testing.T, text string, cluster bool) {
		fl := newFilter(strings.NewReader(text), true, cluster, []string{"boss"})
		fl.admin, fl.version = "root", 16
		fl.fit = func(string, string) (string, error) { return "TEMPLATE template0", nil }
		got, err := io.ReadAll(fl)
		must(t, err)
		if fl.err != nil {
			return // a tag that is too long
		}
		if strings.Count(string(got), "\n") != strings.Count(text, "\n") {
			t.Error("lines are not where they were")
		}
		s, err := parseSchema(strings.NewReader(text))
		must(t, err)
		for _, role := range s.roles {
			if role == "" {
				t.Error("a role without a name")
			}
		}
	})
}

func BenchmarkFilter(b *testing.B) {
	row := strings.Repeat("12345\tsome text of a row\t2024-01-01 00:00:00\t\\N\n", 20000)
	insert := strings.Repeat("INSERT INTO public.items (id, name, at) VALUES (12345, 'some text of a row', '2024-01-01 00:00:00', NULL);\n", 10000)
	for name, text := range map[string]string{"copy": "COPY t FROM stdin;\n" + row + "\\.\n", "inserts": insert} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				f := newFilter(strings.NewReader(text), true, false, nil)
				if n, err := io.Copy(io.Discard, f); err != nil || n != int64(len(text)) {
					b.Fatal(n, err)
				}
			}
		})
	}
}
