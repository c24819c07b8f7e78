package postgres

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
)

const dumpHead = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\n"
const dumpEnd = "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n"

// passedOver has all that psql passes over and loads the rest.
const passedOver = dumpHead + `SET statement_timeout = 0;
SET a_setting_of_tomorrow = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
ALTER TABLE ONLY public.t DROP CONSTRAINT t_pkey;
DROP INDEX nowhere.i;
DROP TABLE public.t;
DROP FUNCTION public.f(nowhere.type);
SELECT pg_catalog.lo_unlink('4711');
DROP SCHEMA nowhere;
CREATE ROLE app;
CREATE ROLE app;
CREATE TABLESPACE fast OWNER app LOCATION '/nowhere';
SET default_tablespace = fast;

--
-- Name: t; Type: TABLE; Schema: public; Owner: app
--

CREATE TABLE public.t (n integer, tablespace text);
ALTER TABLE public.t OWNER TO app;
SET default_tablespace = '';
ALTER DATABASE shop SET a_setting_of_tomorrow = 'x';
ALTER ROLE postgres WITH NOSUPERUSER NOLOGIN;

--
-- Data for Name: t; Type: TABLE DATA; Schema: public; Owner: app
--

COPY public.t (n, tablespace) FROM stdin;
1	SET a_setting_of_tomorrow = 0;
2	DROP TABLE public.t;
\.

--
-- Name: t t_pkey; Type: CONSTRAINT; Schema: public; Owner: app
--

ALTER TABLE ONLY public.t
    ADD CONSTRAINT t_pkey PRIMARY KEY (n);
`

func TestPlainPassesOver(t *testing.T) {
	w := newBench(t)
	w.put("dump", "d.sql", passedOver+dumpEnd)
	g, err := w.build(runtime.Sources{Dump: "d.sql"})
	must(t, err)
	_, ask := w.clone(g, nil)
	if got := ask("SELECT count(*), max(n), (SELECT tableowner FROM pg_tables WHERE tablename = 't'), (SELECT count(*) FROM pg_constraint WHERE conname = 't_pkey') FROM t"); got != "2|2|app|1" {
		t.Error(got)
	}
	want := []string{
		`left out: SET a_setting_of_tomorrow = 0: unrecognized configuration parameter "a_setting_of_tomorrow"`,
		"role app is there already: it is not made again", noTablespaces,
		`left out: SET a_setting_of_tomorrow = 'x': unrecognized configuration parameter "a_setting_of_tomorrow"`,
		"role postgres stays a superuser with a login, which the dump's is not: the golden is built by it",
	}
	if diff := cmp.Diff(want, w.warnings); diff != "" {
		t.Error(diff)
	}
}

const failing = `
--
-- Name: u; Type: TABLE; Schema: public; Owner: app
--

CREATE TABLE public.u (n public.nothing);

--
-- Name: v; Type: VIEW; Schema: public; Owner: app
--

CREATE VIEW public.v AS
 SELECT n
   FROM public.u;
CREATE TABLE public.after (n int);
`

// TestOnError says that a failure names file, line and object, and that the rest is loaded where the caller wants it so.
func TestOnError(t *testing.T) {
	w := newBench(t)
	w.put("dump", "d.sql", passedOver+failing+dumpEnd)
	_, err := w.build(runtime.Sources{Dump: "d.sql"})
	var source *runtime.SourceError
	line := strings.Count(passedOver, "\n") + 6
	if !errors.As(err, &source) || source.Line != line || source.File != "d.sql" || source.Message != `TABLE public.u: type "public.nothing" does not exist` {
		t.Errorf("error %v", err)
	}

	w = newBench(t)
	w.put("dump", "d.sql", passedOver+failing+dumpEnd)
	g, err := w.build(runtime.Sources{Dump: "d.sql", GoOn: true})
	must(t, err)
	_, ask := w.clone(g, nil)
	if got := ask("SELECT count(*), (SELECT count(*) FROM after) FROM t"); got != "2|0" {
		t.Error(got)
	}
	warned := strings.Join(w.warnings, "\n")
	for _, want := range []string{`VIEW public.v: relation "public.u" does not exist`, `TABLE public.u: type "public.nothing" does not exist`, "failed: d.sql:"} {
		if !strings.Contains(warned, want) {
			t.Errorf("%s is not in %s", want, warned)
		}
	}
}

// TestArchiveParts restores what of an archive only its own tools see: owners and rights of large objects, a schema that is there
// already, roles that come ahead of it, a login of theirs.
func TestArchiveParts(t *testing.T) {
	l := newLive(t)
	psqlURL(t, l.url, `CREATE ROLE lo_owner; CREATE ROLE lo_reader; CREATE ROLE app LOGIN PASSWORD 'a'; CREATE ROLE "a ""b'c";
		SELECT lo_from_bytea(777, 'abc'); ALTER LARGE OBJECT 777 OWNER TO lo_owner; GRANT SELECT ON LARGE OBJECT 777 TO lo_reader;
		COMMENT ON LARGE OBJECT 777 IS 'x'; GRANT lo_reader TO app; GRANT CONNECT ON DATABASE sales TO app;
		ALTER DEFAULT PRIVILEGES FOR ROLE "a ""b'c" IN SCHEMA public GRANT SELECT ON TABLES TO app; GRANT SELECT ON item TO app`)
	const check = `SELECT lomowner::regrole, 'lo_reader=r/lo_owner' = ANY (lomacl::text[]),
		(SELECT defaclrole::regrole FROM pg_default_acl), (SELECT count(*) FROM item) FROM pg_largeobject_metadata WHERE oid = 777`
	for _, tt := range []struct {
		file string
		args []string
	}{{"d.dump", []string{"-Fc"}}, {"d.tar", []string{"-Ft"}}, {"d", []string{"-Fd"}}, {"d.sql", nil}, {"c.sql", []string{"--create", "--clean"}}, {"i.sql", []string{"--clean", "--if-exists"}},
		{"n.dump", []string{"-Fc", "-n", "public", "-b"}}, {"n.sql", []string{"-n", "public", "-b"}}} {
		for _, withRoles := range []bool{false, true} {
			if withRoles && tt.file != "d.dump" && tt.file != "d.sql" && tt.file != "n.dump" {
				continue
			}
			name := tt.file
			if withRoles {
				name += " with roles"
			}
			t.Run(name, func(t *testing.T) {
				w := newBench(t)
				w.put("dump", "roles.sql", "")
				dir := filepath.Join(w.dir, "src/dump")
				must(t, os.Remove(filepath.Join(dir, "roles.sql")))
				l.dump("pg_dump", append(tt.args, "-f", filepath.Join(dir, tt.file))...)
				src := runtime.Sources{Dump: tt.file}
				if strings.HasPrefix(tt.file, "n.") { // of one schema: its extension is missing, it uses none
					src.Init = []string{w.put("init", "1.sql", "SELECT 1")}
				}
				if withRoles {
					l.dump("pg_dumpall", "--roles-only", "-f", filepath.Join(dir, "roles.sql"))
					src.Before, src.Login, src.Password = []string{"roles.sql"}, "app", "clone's own"
				}
				filepath.WalkDir(dir, func(p string, d os.DirEntry, _ error) error {
					return os.Chmod(p, map[bool]os.FileMode{true: 0o755, false: 0o644}[d.IsDir()])
				})
				g, err := w.build(src)
				must(t, err)
				c, ask := w.clone(g, nil)
				want := `lo_owner|t|"a ""b'c"|5000`
				if withRoles { // who is no superuser sees no rows that no policy shows
					want = `lo_owner|t|"a ""b'c"|0`
				}
				if got := ask(check); got != want {
					t.Errorf("got %s, want %s", got, want)
				}
				if withRoles && (c.User != "app" || c.Password != "clone's own" || ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != "f") {
					t.Errorf("%s %s", c.User, c.Password)
				}
			})
		}
	}
}
