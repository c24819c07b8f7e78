package postgres

import (
	"net"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// zoo has kinds of objects that dumps are known to be lost by.
const zoo = `CREATE ROLE zoo_owner; CREATE SCHEMA "Odd Name-1.x" AUTHORIZATION zoo_owner;
CREATE TABLE "Odd Name-1.x"."Order" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, net numeric NOT NULL, gross numeric GENERATED ALWAYS AS (net * 1.19) STORED, "a,b" text);
INSERT INTO "Odd Name-1.x"."Order" (net, "a,b") VALUES (100, 'x'), (50, E'tab\tline\nnew\\.\n\\.'), (1, NULL), (2, E'\\restrict x\nDROP TABLE t;\nSET a = 1;');
CREATE TABLE dept (id int PRIMARY KEY, head int); CREATE TABLE emp (id int PRIMARY KEY, dept int NOT NULL REFERENCES dept, boss int REFERENCES emp);
ALTER TABLE dept ADD FOREIGN KEY (head) REFERENCES emp DEFERRABLE INITIALLY DEFERRED;
CREATE UNLOGGED TABLE sessions AS SELECT generate_series(1, 100) AS id;
CREATE TABLE part (k int, v text) PARTITION BY RANGE (k); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (1) TO (100); CREATE TABLE part_d PARTITION OF part DEFAULT;
INSERT INTO part SELECT i, 'v' || i FROM generate_series(1, 200) i;
CREATE TYPE mood AS ENUM ('ok', 'so; so'); CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TABLE typed (m mood, p positive, a text[], i interval, t timestamptz, b bytea);
INSERT INTO typed VALUES ('so; so', 1, '{NULL,"a b",x}', '-1 days +02:03:04', '2020-02-03 04:05:06+07', '\x00ff');
SELECT lo_from_bytea(4711, '\xdeadbeef'); COMMENT ON LARGE OBJECT 4711 IS 'a picture'; ALTER LARGE OBJECT 4711 OWNER TO zoo_owner;
CREATE FUNCTION f(a int, b text DEFAULT 'x; DROP TABLE emp') RETURNS int LANGUAGE plpgsql AS $f$ BEGIN
CREATE ROLE ghost;
RETURN 1; END $f$;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TRIGGER tell AFTER INSERT ON emp FOR EACH ROW EXECUTE FUNCTION tell();
CREATE RULE no_delete AS ON DELETE TO dept DO INSTEAD NOTHING; ALTER TABLE emp ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON emp TO zoo_owner USING (id = 1);
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM part; CREATE VIEW v AS SELECT 'a;b'::text AS x; CREATE STATISTICS st ON k, v FROM part; CREATE PUBLICATION p FOR TABLE emp;
ALTER DEFAULT PRIVILEGES FOR ROLE zoo_owner IN SCHEMA "Odd Name-1.x" GRANT SELECT ON TABLES TO reader; GRANT SELECT (id) ON emp TO reader WITH GRANT OPTION`

var volatileRE = regexp.MustCompile(`(?m)^\\(?:un)?restrict .*$`)

// TestInputs restores dumps of a zoo of objects, in each format, and compares each object and each row with what psql and
// pg_restore make of the same dump: by pg_dump's text of both.
func TestInputs(t *testing.T) {
	l := newLive(t)
	for _, program := range []string{"pg_dump", "pg_restore", "psql"} {
		if _, err := os.Stat(l.in.bin + "/" + program); err != nil {
			t.Skipf("%s is not there: the control cannot be made: %v", program, err)
		}
	}
	psqlURL(t, l.url, zoo)
	text := func(url string) string {
		out, err := l.in.command("pg_dump", "-d", url).Output()
		must(t, err)
		return string(volatileRE.ReplaceAll(out, nil))
	}
	for _, tt := range []struct {
		file string
		args []string
	}{
		{"d.dump", []string{"-Fc"}}, {"d.tar", []string{"-Ft"}}, {"d", []string{"-Fd"}}, {"d.sql", nil}, {"i.sql", []string{"--inserts"}}, {"c.sql", []string{"--clean", "--if-exists"}},
		{"a.dump", []string{"-Fc", "-Z0", "--no-owner", "--no-acl"}},
	} {
		t.Run(tt.file, func(t *testing.T) {
			w := newBench(t)
			dir := filepath.Join(w.dir, "src/dump")
			must(t, os.MkdirAll(dir, 0o755))
			file := filepath.Join(dir, tt.file)
			l.dump("pg_dump", append(tt.args, "-f", file)...)
			filepath.WalkDir(dir, func(p string, d os.DirEntry, _ error) error {
				return os.Chmod(p, map[bool]os.FileMode{true: 0o755, false: 0o644}[d.IsDir()])
			})
			psqlURL(t, l.url, "DROP DATABASE IF EXISTS control")
			psqlURL(t, l.url, "CREATE DATABASE control TEMPLATE template0")
			control := state{User: "postgres", Passwd: livePassword, DB: "control"}.url(net.JoinHostPort(l.host, "5432"), nil)
			cmd := l.in.command("pg_restore", "-d", control, file)
			if filepath.Ext(file) == ".sql" {
				cmd = l.in.command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", control, "-f", file)
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("control: %v: %s", err, out)
			}
			g, err := w.build(runtime.Sources{Dump: tt.file})
			must(t, err)
			c, _ := w.clone(g, nil)
			if diff := cmp.Diff(text(control), text(c.URLs["tcp"])); diff != "" {
				t.Error(diff)
			}
			if len(w.warnings) > 0 {
				t.Errorf("warnings of a dump of the same version: %q", w.warnings)
			}
		})
	}
}
