package postgres

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
)

func TestOpensOwn(t *testing.T) {
	for text, want := range map[string]bool{
		"SET a = 1;\nSELECT pg_catalog.set_config('search_path', '', false);\nDROP DATABASE IF EXISTS a;\nCREATE DATABASE a;": true,
		"\\restrict a\n-- CREATE\nCREATE ROLE a;\nGRANT a TO b;\n\\connect a\n":                                               true,
		"\\c a":                                  true,
		"CREATE TABLE t ();\nCREATE DATABASE a;": false,
		"GRANT SELECT ON a TO b;\nCREATE DATABASE ": false,
		"SELECT 'CREATE DATABASE a;';":              false,
		"":                                          false,
	} {
		if opensOwn([]byte(text)) != want {
			t.Errorf("%q", text)
		}
	}
}

func TestAlternatives(t *testing.T) {
	options := parseOptions(" WITH OWNER = a TEMPLATE = template0 ENCODING 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'de_DE.UTF-8' CONNECTION LIMIT = -1;\n")
	all, other := alternatives(options)
	var got []string
	for _, o := range all {
		got = append(got, optionsText(o))
	}
	want := []string{
		"OWNER = a TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'de_DE.UTF-8' CONNECTION LIMIT = -1",
		"OWNER = a TEMPLATE = template0 ENCODING = 'UTF8' CONNECTION LIMIT = -1 LC_COLLATE = 'de_DE.UTF-8' LC_CTYPE = 'de_DE.UTF-8'",
		"OWNER = a ENCODING = 'UTF8' CONNECTION LIMIT = -1 TEMPLATE = template0",
		"OWNER = a CONNECTION LIMIT = -1 TEMPLATE = template0",
	}
	if diff := cmp.Diff(want, got); diff != "" || other != 2 {
		t.Error(other, diff)
	}
	if all, other := alternatives(nil); len(all) != 3 || other != 1 {
		t.Error(all, other)
	}
}

// databaseSQL tells of a database what a dump of it tells.
const databaseSQL = `SELECT pg_encoding_to_char(encoding), datcollate, datctype, datconnlimit, pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'), datacl,
	(SELECT string_agg(coalesce(pg_get_userbyid(nullif(setrole, 0)), '') || ':' || setconfig::text, ' ' ORDER BY setrole::int) FROM pg_db_role_setting WHERE setdatabase = d.oid),
	(SELECT string_agg(id::text, ',' ORDER BY id) FROM item) FROM pg_database d WHERE datname = current_database()`

// TestRestoreDatabase says that the database of a dump is the golden's, by whatever name, and as it was.
func TestRestoreDatabase(t *testing.T) {
	l := newLive(t)
	at := func(database string) string {
		return state{User: "postgres", Passwd: livePassword, DB: database}.url(net.JoinHostPort(l.host, "5432"), nil)
	}
	psqlURL(t, at("postgres"), "CREATE DATABASE production TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' CONNECTION LIMIT 7")
	for _, sql := range []string{
		`CREATE ROLE boss`, `CREATE ROLE app`, `ALTER DATABASE production OWNER TO boss`, `REVOKE ALL ON DATABASE production FROM PUBLIC`, `GRANT CONNECT ON DATABASE production TO app`,
		`COMMENT ON DATABASE production IS 'Köln'`, `ALTER DATABASE production SET work_mem = '7MB'`, `ALTER ROLE app IN DATABASE production SET statement_timeout = '3s'`,
		`CREATE TABLE item (id int); INSERT INTO item VALUES (1), (2); ALTER TABLE item OWNER TO boss`,
	} {
		psqlURL(t, at("production"), sql)
	}
	want := psqlURL(t, at("production"), databaseSQL)
	dump := func(program, file string, args ...string) func(w *bench) {
		return func(w *bench) {
			w.put("dump", file, "")
			cmd := l.in.command(program, append(args, "-d", at("production"), "-f", filepath.Join(w.dir, "src/dump", file))...)
			cmd.Env = append(cmd.Env, "PGPASSWORD="+livePassword)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	for _, tt := range []struct {
		name, want string // which database the golden's is to be
		put        func(w *bench)
		src        runtime.Sources
		text       string // what databaseSQL says, if not what it says of the live server
	}{
		{"plain", "production", dump("pg_dump", "d", "-C", "-c", "--if-exists"), runtime.Sources{}, want},
		{"plain by another name", "app_test", dump("pg_dump", "d", "-C"), runtime.Sources{Database: "app_test"}, want},
		{"plain by its name", "production", dump("pg_dump", "d", "-C"), runtime.Sources{Database: "production"}, want},
		{"custom", "shop", dump("pg_dump", "d", "-C", "-Fc"), runtime.Sources{}, want},
		{"all", "production", dump("pg_dumpall", "d", "--exclude-database=sales"), runtime.Sources{}, want},
		{"one of all", "production", dump("pg_dumpall", "d"), runtime.Sources{Database: "production"}, want},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newBench(t)
			tt.put(w)
			tt.src.Dump = "d"
			g, err := w.build(tt.src)
			must(t, err)
			c, ask := w.clone(g, nil)
			if got := ask(databaseSQL); c.Database != tt.want || got != tt.text {
				t.Errorf("%s: %s", c.Database, cmp.Diff(tt.text, got))
			}
			if len(w.warnings) > 0 {
				t.Errorf("warnings: %q", w.warnings)
			}
		})
	}
}

// TestDatabasesOfDump says which database is the golden's after dumps that psql could not be told from others before.
func TestDatabasesOfDump(t *testing.T) {
	const item = "CREATE TABLE item (id int);\n"
	for _, tt := range []struct {
		name, text, wanted string
		want, warns        string
	}{
		{"made late", "SELECT 1;\nCREATE DATABASE a;\n\\connect a\n" + item, "", "a", ""},
		{"made late by another name", "SELECT 1;\nCREATE DATABASE a;\n\\connect a\n" + item, "b", "b", ""},
		{"beside the golden's", item + "CREATE DATABASE a;\n\\connect a\nCREATE TABLE other ();\n", "", "shop", ""},
		{"several", "CREATE DATABASE a;\nCREATE DATABASE b;\n\\connect postgres\n" + item, "", "postgres", "databases a, b"},
		{"another locale", "CREATE DATABASE a ENCODING 'UTF8' TEMPLATE template0 LC_COLLATE 'xx_YY.UTF-8' LC_CTYPE 'xx_YY.UTF-8';\n\\connect a\n" + item, "", "a", "database a: the base does not have its locale"},
		{"name like an option", "CREATE DATABASE \"-f host=x '\";\n\\connect -reuse-previous=on \"dbname='-f host=x \\''\"\n" + item, "", "-f host=x '", ""},
		{"name like an option from the start", item, "-f host=x '", "-f host=x '", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newBench(t)
			g, err := w.build(runtime.Sources{Dump: w.put("dump", "d.sql", tt.text), Database: tt.wanted})
			must(t, err)
			c, ask := w.clone(g, nil)
			if c.Database != tt.want || ask("SELECT to_regclass('item')") != "item" {
				t.Errorf("the golden's database is %s", c.Database)
			}
			if all := strings.Join(w.warnings, "\n"); !strings.Contains(all, tt.warns) || tt.warns == "" && all != "" {
				t.Errorf("warnings: %s", all)
			}
		})
	}
	w := newBench(t)
	_, err := w.build(runtime.Sources{Dump: w.put("dump", "d.sql", "CREATE DATABASE a;\nCREATE DATABASE b;\n"), Database: "c"})
	if err == nil || !strings.Contains(err.Error(), "database c is not in the dump") {
		t.Errorf("error %v", err)
	}
}
