package postgres

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/ctrsnap/ctrsnap/runtime"
)

func TestParseLive(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://me:s%2Fecret@db:6543/sales?sslmode=verify-full":                                                                 `dbname='sales' host='db' port='6543' sslmode='verify-full' user='me'`,
		"postgresql://me@db/sales?options=-c%20search_path%3Da%20-c%20x=1&application_name=a+b":                                     `application_name='a+b' dbname='sales' host='db' options='-c search_path=a -c x=1' user='me'`,
		"postgresql:///sales?host=db&port=1&user=a%20b&password=x":                                                                  `dbname='sales' host='db' port='1' user='a b'`,
		"postgresql://me@[::1]:1?target_session_attrs=read-write":                                                                   `dbname='me' host='::1' port='1' target_session_attrs='read-write' user='me'`,
		"postgres://u@[2001:db8::1]/db?host=2001:db8::2&port=7":                                                                     `dbname='db' host='2001:db8::2' port='7' user='u'`,
		"postgresql://db/a'b%5C?port=7":                                                                                             `dbname='a\'b\\' host='db' port='7'`,
		"jdbc:postgresql://db:5432/sales?user=me&password=x&ssl=true&ApplicationName=app&prepareThreshold=0&currentSchema=a":        `application_name='app' dbname='sales' host='db' port='5432' sslmode='require' user='me'`,
		"postgres://me@db/sales?pool_max_conns=10&sslmode=disable&default_query_exec_mode=exec&search_path=a":                       `dbname='sales' host='db' sslmode='disable' user='me'`,
		"postgresql://me@db/sales?schema=public&connection_limit=5&pgbouncer=true&sslmode=no-verify&sslaccept=accept_invalid_certs": `dbname='sales' host='db' sslmode='require' user='me'`,
		"postgresql+psycopg2://me@db/sales":                                                                                         `dbname='sales' host='db' user='me'`,
		"postgresql://me@db/sales?dbname=other":                                                                                     `dbname='other' host='db' user='me'`,
		"postgresql://me@db/postgresql%3A%2F%2Fh%2Fx?sslmode=":                                                                      `dbname='postgresql://h/x' host='db' user='me'`,
	} {
		l, err := parseLive(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if diff := cmp.Diff(want, l.connString()); diff != "" {
			t.Errorf("%s: %s", url, diff)
		}
	}
	for _, bad := range []string{
		"mysql://a/b", "postgres:///db", "postgres://h", "postgres:///db?host=/run", "postgres://h,/db?port=1,2,3", "postgres://%zz", "", "postgres://u@h/d?service=x",
		"postgres://u@h/d?passfile=/x", "postgres://a,b/db", "postgres://a:1,b:2/db", "postgres://a/db?host=a,b", "postgres://a/db?port=1,2", "postgres://a/db?hostaddr=127.0.0.1",
		"postgres://a/db?%68ostaddr=127.0.0.1", "postgres://a/db?servicefile=/x", "postgres://a/db?host=@x", "postgres://a/db?load_balance_hosts=random", "postgres://u@h/d?a=%zz", "postgres://u@h/d\x00",
	} {
		_, err := parseLive(bad)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		} else if strings.Contains(err.Error(), "%zz") {
			t.Errorf("%q is in the error", bad)
		}
	}
	if l, err := parseLive("postgres://me:s%2Fecret@h/d?password=ot%2Bher+1"); err != nil || l.password != "ot+her+1" {
		t.Errorf("password %q, %v", l.password, err)
	}
}

// TestConnValue says that libpq reads back what is written, whatever it looks like.
func TestConnValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.OneOf(rapid.SampledFrom(oddNames), rapid.StringMatching(`[ -~é=:/%@?#'"\\]{1,20}`)).Draw(t, "name")
		cfg, err := pgconn.ParseConfig("host=h user=u password=p sslmode=disable " + connString(name))
		if err != nil || cfg.Database != name || cfg.Host != "h" {
			t.Fatalf("%q is read as %q, %v", name, cfg.Database, err)
		}
	})
}

// oddNames are names of databases and roles that look like something else.
var oddNames = []string{
	"a=b", "host=evil dbname=x", "postgresql://h/x", "postgres://u:p@h:1/x", "-x", "--host=evil", "%", "%s", "%d%n", "{{.Name}}", "${HOME}", "$(id)", "`id`", "../x", "/etc/passwd", "a/b",
	"a'b", `a"b`, `a\b`, "a b", " a ", "a;b", "a--b", "/*", "template1 x", "Köln", "日本", "\\x41", "a\tb", "CURRENT_USER", "public x", "a?b#c", "a,b", "a:b@c", "'", `\`, `"`,
}

// TestOddNames builds with databases and roles whose names look like something else, from scripts and from dumps of all formats.
func TestOddNames(t *testing.T) {
	l := newLive(t)
	w := newBench(t)
	b := &build{wb: w, src: runtime.Sources{Golden: "shop"}}
	defer func() { must(t, b.kill(context.Background(), nil)) }()
	must(t, b.found(t.Context()))
	dumps := filepath.Join(w.dir, "src/dump")
	must(t, os.MkdirAll(dumps, 0o755))
	for i, name := range oddNames {
		if i%3 != 0 && name != "postgresql://h/x" && name != "-x" && name != "%" { // each takes its second
			continue
		}
		psqlURL(t, l.url, "DROP TABLE IF EXISTS odd; CREATE ROLE "+ident(name)+"; CREATE TABLE odd (n int); ALTER TABLE odd OWNER TO "+ident(name))
		psqlURL(t, l.url, "CREATE DATABASE "+ident(name))
		args := [][]string{{"-Fc"}, {"-Ft"}, {"-Fd"}, nil}[i%4]
		file := filepath.Join(dumps, "-x%s=1")
		must(t, os.RemoveAll(file))
		l.dump("pg_dump", append(args, "-t", "odd", "-f", file)...)
		filepath.WalkDir(file, func(p string, d os.DirEntry, _ error) error {
			return os.Chmod(p, map[bool]os.FileMode{true: 0o755, false: 0o644}[d.IsDir()])
		})
		b.src.Database, b.st.DB = name, ""
		if err := b.restoreDump(t.Context(), filepath.Base(file)); err != nil {
			t.Errorf("%q, %v: %v", name, args, err)
			continue
		}
		w.put("init", "1.sql", "INSERT INTO public.odd VALUES (1);")
		if err := b.script(t.Context(), "init", "1.sql"); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		rows, err := b.query(t.Context(), name, "SELECT pg_catalog.current_database() || '|' || tableowner || '|' || (SELECT count(*) FROM public.odd) FROM pg_catalog.pg_tables WHERE tablename = 'odd'")
		must(t, err)
		if want := name + "|" + name + "|1"; len(rows) != 1 || rows[0] != want {
			t.Errorf("%q: %q", want, rows)
		}
		must(t, b.vacuum(t.Context(), name))
		b.st.User, b.st.Passwd = name, ""
		b.src.Login, b.src.Password = name, "p"+name
		if err := b.login(t.Context()); err != nil {
			t.Errorf("%q: log in: %v", name, err)
		}
		c := b.st.connection(b.svc.Endpoint())
		if got := psqlURL(t, c.URLs["tcp"], "SELECT current_user = "+literal(name)+" AND current_database() = "+literal(name)); got != "t" {
			t.Errorf("%q: %s", name, got)
		}
	}
}
