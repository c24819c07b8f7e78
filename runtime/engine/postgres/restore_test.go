package postgres

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/engine/rootfs"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// live is a private server on loopback, run as a user of the host.
type liveServer struct {
	t         *testing.T
	in        installation
	dir       string
	host, url string
	cmd       *exec.Cmd
}

func (l *liveServer) start() {
	l.cmd = l.in.command("postgres", "-D", l.dir+"/data", "-c", "listen_addresses="+l.host,
		"-c", "unix_socket_directories=", "-c", "fsync=off")
	l.cmd.SysProcAttr = serverCredential(l.t)
	must(l.t, l.cmd.Start())
	deadline := time.Now().Add(30 * time.Second)
	for {
		text, _ := os.ReadFile(l.dir + "/data/postmaster.pid")
		if pidFile(text).ready() {
			return
		}
		if time.Now().After(deadline) {
			l.t.Fatal("the live server does not start")
		}
		<-time.After(5 * time.Millisecond)
	}
}

// serverCredential is the user postgres, or one that every host has: initdb asks for its name.
func serverCredential(t *testing.T) *unix.SysProcAttr {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	must(t, err)
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &unix.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Pdeathsig: unix.SIGKILL}
}

func (l *liveServer) stop(sig os.Signal) {
	l.cmd.Process.Signal(sig)
	l.cmd.Wait()
}

const livePassword = "p@ss:w/rd?"

func newLive(t *testing.T) *liveServer {
	t.Helper()
	base(t)
	l := &liveServer{t: t, dir: t.TempDir(), host: fmt.Sprintf("127.9.%d.%d", os.Getpid()%250+1, time.Now().UnixNano()%250+1)}
	for d := l.dir; d != os.TempDir(); d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o755))
	}
	must(t, os.Chmod(l.dir, 0o777))
	l.in = reachable(t, l.dir+"/postgresql")
	must(t, os.WriteFile(l.dir+"/pw", []byte(livePassword), 0o644))
	cmd := l.in.command("initdb", "-N", "-D", l.dir+"/data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", l.dir+"/pw", "--locale=C.UTF-8")
	cmd.SysProcAttr = serverCredential(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l.start()
	t.Cleanup(func() { l.stop(os.Kill) })
	l.url = state{User: "postgres", Passwd: livePassword}.url(net.JoinHostPort(l.host, "5432"), nil)
	psqlURL(t, l.url, "CREATE DATABASE sales")
	psqlURL(t, l.url, "CREATE ROLE reader LOGIN PASSWORD 'r'; CREATE ROLE \"Odd Owner\"")
	psqlURL(t, l.url, "ALTER DATABASE sales SET statement_timeout = '77s'")
	l.url = state{User: "postgres", Passwd: livePassword, DB: "sales"}.url(net.JoinHostPort(l.host, "5432"), nil)
	psqlURL(t, l.url, `CREATE EXTENSION pg_trgm; CREATE TABLE item (id int PRIMARY KEY, name text);
		INSERT INTO item SELECT i, 'name ' || i FROM generate_series(1, 5000) i;
		GRANT SELECT ON item TO reader; ALTER TABLE item OWNER TO "Odd Owner";
		ALTER TABLE item ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON item TO reader USING (id > 10)`)
	return l
}

// reachable is the installation at a place that the server's user can reach: a
// prefix may lie in somebody's home.
func reachable(t *testing.T, dir string) installation {
	t.Helper()
	if testPrefix() == "" {
		return installed(t)
	}
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount(testPrefix(), dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	in, err := findInstallation(dir)
	must(t, err)
	return in
}

func (l *liveServer) dump(program string, args ...string) {
	l.t.Helper()
	cmd := l.in.command(program, append(args, "-d", l.url)...)
	cmd.Env = append(cmd.Env, "PGPASSWORD="+livePassword) // pg_dumpall's for the other databases
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
}

const fingerprint = `SELECT count(*), sum(id), (SELECT count(*) FROM pg_policies), has_table_privilege('reader', 'item', 'SELECT'),
	(SELECT tableowner FROM pg_tables WHERE tablename = 'item'), (SELECT count(*) FROM pg_extension) FROM item`

const wantFingerprint = "5000|12502500|1|t|Odd Owner|2"

func TestRestore(t *testing.T) {
	l := newLive(t)
	for _, tt := range []struct {
		name, program, file string
		args                []string
		database            string
	}{
		{"custom", "pg_dump", "d.dump", []string{"-Fc"}, "shop"},
		{"directory", "pg_dump", "d", []string{"-Fd"}, "shop"},
		{"tar", "pg_dump", "d.tar", []string{"-Ft"}, "shop"},
		{"plain", "pg_dump", "d.sql", []string{"-Fp"}, "shop"},
		{"plain gz", "pg_dump", "d.sql.gz", []string{"-Fp", "-Z", "1"}, "shop"},
		{"all", "pg_dumpall", "d.all.sql", nil, "sales"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newBench(t)
			must(t, os.Mkdir(filepath.Join(w.dir, "src/dump"), 0o755))
			path := filepath.Join(w.dir, "src/dump", tt.file)
			l.dump(tt.program, append(tt.args, "-f", path)...)
			filepath.WalkDir(path, func(p string, d os.DirEntry, _ error) error {
				return os.Chmod(p, map[bool]os.FileMode{true: 0o755, false: 0o644}[d.IsDir()])
			})
			g, err := w.build(runtime.Sources{Dump: tt.file})
			must(t, err)
			checkGoldenFiles(t, w)
			c, ask := w.clone(g, nil)
			if got := ask(fingerprint); got != wantFingerprint {
				t.Errorf("got %s, want %s", got, wantFingerprint)
			}
			if c.Database != tt.database {
				t.Errorf("database %s", c.Database)
			}
			// Of all formats, only the archives and pg_dumpall tell the settings.
			if got := ask("SHOW statement_timeout"); !strings.HasPrefix(tt.name, "plain") && got != "77s" {
				t.Errorf("the database's setting is %s", got)
			}
		})
	}
}

// TestRestoreTexts says that a dump whose texts hold lines of dumps is loaded as psql loads it, and that no roles
// are made of texts.
func TestRestoreTexts(t *testing.T) {
	l := newLive(t)
	text := rapid.Custom(drawText)
	out := "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nCREATE TABLE public.wiki (id integer, page text);\n"
	for id := range 300 {
		out += holders[id%len(holders)](id, text.Example(id))
	}
	out += "ALTER TABLE public.wiki OWNER TO missing;\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n"
	w := newBench(t)
	w.put("dump", "texts.sql", out)
	g, err := w.build(runtime.Sources{Dump: "texts.sql"})
	must(t, err)
	_, ask := w.clone(g, nil)
	const rows, roles = "SELECT id, page FROM wiki ORDER BY id", "SELECT string_agg(rolname, ',' ORDER BY rolname) FROM pg_roles WHERE rolname !~ '^pg_'"
	if got := ask(roles); got != "missing,postgres" {
		t.Errorf("roles %s", got)
	}
	got := ask(rows)

	psqlURL(t, l.url, "CREATE DATABASE control")
	psqlURL(t, l.url, "CREATE ROLE missing")
	control := state{User: "postgres", Passwd: livePassword, DB: "control"}.url(net.JoinHostPort(l.host, "5432"), nil)
	cmd := l.in.command("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", control)
	cmd.Stdin = strings.NewReader(strings.NewReplacer("\n\\restrict abc\n", "\n", "\n\\unrestrict abc\n", "\n").Replace(out))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("control: %v: %s", err, text)
	}
	if diff := cmp.Diff(psqlURL(t, control, rows), got); diff != "" {
		t.Error(diff)
	}
}

func TestRestoreTruncated(t *testing.T) {
	l := newLive(t)
	for _, args := range [][]string{{"-Fc", "-Z0"}, {"-Ft"}, {"-Fp"}, {"-Fp", "-Z", "1"}} {
		t.Run(strings.Join(args, ""), func(t *testing.T) {
			w := newBench(t)
			path := filepath.Join(l.dir, "dump")
			l.dump("pg_dump", append(args, "-f", path)...)
			text, err := os.ReadFile(path)
			must(t, err)
			w.put("dump", "cut", string(text[:len(text)*2/3]))
			_, err = w.build(runtime.Sources{Dump: "cut"})
			var source *runtime.SourceError
			if !errors.As(err, &source) || source.File != "cut" {
				t.Fatalf("error %v", err)
			}
			t.Log(err)
		})
	}
}

func TestBuildFromURL(t *testing.T) {
	l := newLive(t)
	w := newBench(t)
	g, err := w.build(runtime.Sources{URL: l.url})
	must(t, err)
	checkGoldenFiles(t, w)
	if strings.Contains(w.text(), livePassword) {
		t.Error("the password is in the log")
	}
	c, ask := w.clone(g, nil)
	if got := ask(fingerprint); got != wantFingerprint {
		t.Errorf("got %s, want %s", got, wantFingerprint)
	}
	if c.Database != "sales" || c.User != loginRole {
		t.Errorf("%s as %s", c.Database, c.User)
	}
	// The golden's roles keep their passwords.
	s := state{User: "reader", Passwd: "r", DB: "sales"}
	if got := psqlURL(t, s.url(net.JoinHostPort(c.Host, "5432"), nil), "SELECT count(*) FROM item"); got != "4990" {
		t.Errorf("reader sees %s rows", got)
	}
}

func TestBuildFromDir(t *testing.T) {
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			l := newLive(t)
			l.stop(sig)
			w := newBench(t)
			copyTree(t, l.dir+"/data", w.dir+"/src/dir")
			must(t, os.WriteFile(w.dir+"/src/dir/standby.signal", nil, 0o600))
			g, err := w.build(runtime.Sources{Dir: true})
			must(t, err)
			checkGoldenFiles(t, w)
			c, ask := w.clone(g, nil)
			if got := ask(fingerprint); got != wantFingerprint {
				t.Errorf("got %s, want %s", got, wantFingerprint)
			}
			if c.Database != "sales" || c.User != loginRole {
				t.Errorf("%s as %s", c.Database, c.User)
			}
			if got := psqlURL(t, state{User: "postgres", Passwd: livePassword, DB: "sales"}.url(c.Host, nil), "SELECT 1"); got != "1" {
				t.Error("postgres cannot log in with its own password")
			}
		})
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestBuildFromBadDir(t *testing.T) {
	base(t)
	good := newLive(t)
	good.stop(unix.SIGINT)
	for _, tt := range []struct {
		name, want string
		spoil      func(dir string) error
	}{
		{"empty", "PG_VERSION is missing", func(d string) error { return os.RemoveAll(d + "/PG_VERSION") }},
		{"old", "oldest that is served is 12", func(d string) error { return os.WriteFile(d+"/PG_VERSION", []byte("9.6\n"), 0o600) }},
		{"version", "find PostgreSQL 13 in the base, which has PostgreSQL 1", func(d string) error { return os.WriteFile(d+"/PG_VERSION", []byte("13\n"), 0o600) }},
		{"no control", "global/pg_control is missing", func(d string) error { return os.Remove(d + "/global/pg_control") }},
		{"byte order", "another byte order", func(d string) error { return patch(d+"/global/pg_control", 8, []byte{0, 0, 5, 20}) }},
		{"broken control", "control file", func(d string) error { return patch(d+"/global/pg_control", 30, []byte{1, 2, 3}) }},
		{"tablespace", "tablespace outside", func(d string) error { return os.Symlink("/etc", d+"/pg_tblspc/16999") }},
		{"setting", "nonsense", func(d string) error {
			return os.WriteFile(d+"/postgresql.conf", []byte("shared_preload_libraries = 'nonsense'\n"), 0o600)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newBench(t)
			copyTree(t, good.dir+"/data", w.dir+"/src/dir")
			must(t, tt.spoil(w.dir+"/src/dir"))
			_, err := w.build(runtime.Sources{Dir: true})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func patch(file string, offset int64, b []byte) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(b, offset)
	return err
}

// entrypoint follows the conventions of the official image in a few lines.
const entrypoint = `#!/bin/bash
set -e
if [ "$(id -u)" = 0 ]; then
	exec setpriv --reuid postgres --regid postgres --clear-groups "$0" "$@"
fi
initdb -U "$POSTGRES_USER" --pwfile=<(printf "%s\n" "$POSTGRES_PASSWORD") -A scram-sha-256 $POSTGRES_INITDB_ARGS >/dev/null
shift
pg_ctl -D "$PGDATA" -o "$(printf '%q ' "$@" -c listen_addresses=)" -w start
export PGPASSWORD="$POSTGRES_PASSWORD"
PGHOST= psql -U "$POSTGRES_USER" -d postgres -c "CREATE DATABASE \"$POSTGRES_DB\""
for f in /docker-entrypoint-initdb.d/*.sql; do PGHOST= psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$f"; done
pg_ctl -D "$PGDATA" -m fast -w stop
exec postgres "$@"
`

func TestOfficialImage(t *testing.T) {
	base(t)
	lower := t.TempDir()
	must(t, writeTree(lower, snapshot.HostFile{Source: "/usr/bin/setpriv", Target: "/usr/bin/setpriv"}))
	w := newBenchOn(t, lower)
	// A root's links may be absolute: nothing is written by its plain path.
	r, err := rootfs.Open(w.root)
	must(t, err)
	defer r.Close()
	must(t, writeFile(r, "/usr/bin/docker-entrypoint.sh", entrypoint, 0o755))
	must(t, writeFile(r, "/docker-entrypoint-initdb.d/1.sql", "CREATE TABLE of_image ()", 0o644))
	in := installed(t)
	g, err := w.build(runtime.Sources{
		Base: snapshot.Base{Config: snapshot.ImageConfig{
			Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"postgres"},
			Env: []string{"PATH=/bin:/usr/bin:" + in.to(in.bin), "PGDATA=/var/lib/postgresql/data", "LANG=C.UTF-8"},
		}},
		User: "boss", Password: "secret", Env: map[string]string{"POSTGRES_DB": "own"},
		Init: []string{w.put("init", "1.sql", "CREATE TABLE of_ours ()")},
	})
	must(t, err)
	checkGoldenFiles(t, w)
	c, ask := w.clone(g, nil)
	if got := ask("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'of_%'"); got != "2" {
		t.Error(got)
	}
	if c.User != "boss" || c.Password != "secret" || c.Database != "own" {
		t.Errorf("%+v", c)
	}
}
