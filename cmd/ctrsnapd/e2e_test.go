package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

const schema = `
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO users SELECT i, 'user ' || i FROM generate_series(1, 1000) i;
`

// query runs sql at url and returns its one value as text.
func query(t testing.TB, url, sql string) string {
	t.Helper()
	got, err := tryQuery(url, sql)
	if err != nil {
		t.Fatalf("%s at %s: %v", sql, url, err)
	}
	return got
}

func tryQuery(url, sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return "", err
	}
	values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		v, err := row.Values()
		if err != nil || len(v) == 0 {
			return "", err
		}
		return fmt.Sprint(v[0]), nil
	})
	return strings.Join(values, "\n"), err
}

func cloneJSON(t testing.TB, d *daemon, args ...string) api.Clone {
	t.Helper()
	var c api.Clone
	if err := json.Unmarshal([]byte(d.run(append([]string{"clone", "-o", "json"}, args...)...)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// modes are the ways to run a daemon that the same tests pass with.
func modes(t *testing.T, test func(t *testing.T, d *daemon)) { modesOf(t, newDaemon, test) }

// shopModes are those with a golden shop:1.
func shopModes(t *testing.T, test func(t *testing.T, d *daemon)) { modesOf(t, newShop, test) }

func modesOf(t *testing.T, start func(t testing.TB, configuration string, args ...string) *daemon, test func(t *testing.T, d *daemon)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, ""))
	})
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, "", "--containerd", hostContainerd(t)))
	})
}

// TestGoldenToClone is the main job, from SQL to servers that see their own
// writes only.
func TestGoldenToClone(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, d *daemon) {
		d.file("schema.sql", schema)
		if got := d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql"); got != "shop:1" {
			t.Fatalf("golden build printed %q", got)
		}
		a, b := d.run("clone", "shop"), d.run("clone", "shop", "--via", "socket")
		query(t, a, "UPDATE users SET name = 'a' WHERE id = 1")
		query(t, b, "DELETE FROM users WHERE id > 1")
		for url, want := range map[string]string{a: "a 1000", b: "user 1 1", d.run("clone", "shop"): "user 1 1000"} {
			if got := query(t, url, "SELECT (SELECT name FROM users WHERE id = 1) || ' ' || count(*) FROM users"); got != want {
				t.Errorf("%s: got %q, want %q", url, got, want)
			}
		}
		d.run("rm", "--all")
		if got := d.run("ls", "--format", "{{.id}}"); got != "" {
			t.Errorf("left after rm --all: %s", got)
		}
		d.run("golden", "rm", "shop")
		if got := d.run("golden", "ls", "-o", "json"); strings.Contains(got, "shop") {
			t.Errorf("golden is there after rm: %s", got)
		}
	})
}

// hostContainerd runs a containerd as a host would have one.
func hostContainerd(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/var/tmp", "ctrsnap-containerd-") //nolint:usetesting // on a disk: the default may be a tmpfs
	if err != nil {
		t.Fatal(err)
	}
	state := "/run/cst-" + filepath.Base(dir)
	address := filepath.Join(state, "c.sock")
	config := fmt.Sprintf("version = 3\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n", dir, state, address)
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir(), "containerd"), "--config", filepath.Join(dir, "config.toml"))
	cmd.Env = append(os.Environ(), "PATH="+binDir()+":"+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
		_ = os.RemoveAll(dir)
		_ = os.RemoveAll(state)
	})
	waitFor(t, "containerd's socket", func() bool { _, err := os.Stat(address); return err == nil })
	return address
}

// waitFor waits until done, for things that have no event to wait for.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// TestFiftyClones writes to fifty clones of one golden at random: each stays
// sound, and the golden is what it was.
func TestFiftyClones(t *testing.T) { t.Parallel(); modes(t, testFiftyClones) }

func testFiftyClones(t *testing.T, d *daemon) {
	d.file("schema.sql", schema+"CREATE EXTENSION amcheck; CREATE INDEX ON users (name);")
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	before := d.run("golden", "inspect", "shop", "--format", "{{.digest}}")
	d.run("clone", "shop", "--count", "50", "-o", "json")
	clones, err := client.Do(t.Context(), d.client, api.ListClones, api.ListClonesArgs{})
	if err != nil || len(clones) != 50 {
		t.Fatalf("got %d clones: %v", len(clones), err)
	}
	var wg sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i, c := range clones {
		wg.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			for _, sql := range []string{
				fmt.Sprintf("SELECT setseed(%f); UPDATE users SET name = md5(random()::text) WHERE random() < 0.5", float64(i)/50),
				"DELETE FROM users WHERE random() < 0.2",
				fmt.Sprintf("INSERT INTO users SELECT 2000 + i, 'clone %d' FROM generate_series(1, (random() * 3000)::int + 1) i", i),
			} {
				if _, err := tryQuery(c.URL, sql); err != nil {
					t.Errorf("clone %d: %v", i, err)
					return
				}
			}
			if got, err := tryQuery(c.URL, fmt.Sprintf("SELECT count(*) FROM users WHERE name LIKE 'clone %%' AND name <> 'clone %d'", i)); err != nil || got != "0" {
				t.Errorf("clone %d sees %s rows of others: %v", i, got, err)
			}
			if r := d.try(nil, "exec", c.ID, "--", "pg_amcheck", "--all", "--heapallindexed", "--parent-check"); r.code != 0 {
				t.Errorf("pg_amcheck of clone %d: exit code %d\n%s%s", i, r.code, r.stdout, r.stderr)
			}
		})
	}
	wg.Wait()
	d.run("rm", "--all")
	if got := query(t, d.run("clone", "shop"), "SELECT count(*) || ' ' || max(name) FROM users"); got != "1000 user 999" {
		t.Errorf("a new clone has %q", got)
	}
	d.run("rm", "--all")
	if r := d.try(nil, "golden", "verify", "shop"); r.code != 0 || before == "" {
		t.Errorf("the golden's digest was %s; verify: %s%s", before, r.stdout, r.stderr)
	}
}

// TestMigrationsByKey builds by a real migration tool that runs on the host.
func TestMigrationsByKey(t *testing.T) { t.Parallel(); modes(t, testMigrationsByKey) }

func testMigrationsByKey(t *testing.T, d *daemon) {
	d.file("migrations/00001_users.sql", "-- +goose Up\nCREATE TABLE users (id int);\n-- +goose Down\nDROP TABLE users;\n")
	d.file("migrations/00002_rows.sql", "-- +goose Up\nINSERT INTO users VALUES (1), (2);\n-- +goose Down\nDELETE FROM users;\n")
	build := []string{
		"golden", "build", "app", fromHost(), "--key", "migrations/**",
		"--exec", `goose -dir migrations postgres "$DATABASE_URL" up`,
	}
	if got := d.run(build...); got != "app:1" {
		t.Fatalf("got %q", got)
	}
	if got := query(t, d.run("clone", "app"), "SELECT count(*) FROM users"); got != "2" {
		t.Errorf("got %s rows", got)
	}
	began := time.Now()
	again := d.try(nil, build...)
	t.Logf("second build of the same key: %v", time.Since(began))
	if strings.TrimSpace(again.stdout) != "app:1" || again.code != 0 || !strings.Contains(again.stderr, "nothing") {
		t.Errorf("second build: exit code %d, stdout %q, stderr %q", again.code, again.stdout, again.stderr)
	}
	d.file("migrations/00003_more.sql", "-- +goose Up\nINSERT INTO users VALUES (3);\n-- +goose Down\n")
	if got := d.run(build...); got != "app:2" {
		t.Errorf("a new migration built %q", got)
	}
	line := append([]string{"run", "--key", "migrations/**", fromHost(), "--exec", build[len(build)-1], "app", "--"},
		"sh", "-c", `echo "$DATABASE_URL"`)
	if got := d.run(line...); !strings.HasPrefix(got, "postgres") {
		t.Errorf("run printed %q", got)
	}
}

// TestDumpRoundTrip restores each format of pg_dump.
func TestDumpRoundTrip(t *testing.T) { t.Parallel(); modes(t, testDumpRoundTrip) }

func testDumpRoundTrip(t *testing.T, d *daemon) {
	d.file("schema.sql", schema+"CREATE ROLE app LOGIN PASSWORD 'secret'; GRANT SELECT ON users TO app; CREATE TABLE owned (i int); ALTER TABLE owned OWNER TO app;")
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	c := cloneJSON(t, d, "shop")
	for format, name := range map[string]string{"c": "custom", "d": "directory", "t": "tar", "p": "plain"} {
		t.Run(name, func(t *testing.T) {
			dump := filepath.Join(d.work, "dump-"+name)
			pgDump(t, d, c.ID, format, dump)
			d.run("golden", "build", "from-"+name, fromHost(), "--from-dump", dump)
			url := d.run("clone", "from-"+name)
			if got := query(t, url, "SELECT count(*) || ' ' || (SELECT tableowner FROM pg_tables WHERE tablename = 'owned') FROM users"); got != "1000 app" {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("truncated", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(d.work, "dump-custom"))
		if err != nil {
			t.Fatal(err)
		}
		d.file("short", string(b[:len(b)/2]))
		r := d.try(nil, "golden", "build", "broken", fromHost(), "--from-dump", "short")
		wantError(t, r, 7, "short")
		wantNoGolden(t, d, "broken")
	})
	t.Run("live database", func(t *testing.T) {
		d.run("golden", "build", "live", fromHost(), "--from-url", c.URL)
		if got := query(t, d.run("clone", "live"), "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("got %s rows", got)
		}
	})
	t.Run("parent", func(t *testing.T) {
		d.file("more.sql", "INSERT INTO users VALUES (5000, 'child');")
		d.file("mask.sql", "UPDATE users SET name = 'masked ' || id WHERE id < 10;")
		d.run("golden", "build", "child", "--parent", "shop", "--init", "more.sql", "--mask", "mask.sql")
		if got := query(t, d.run("clone", "child"), "SELECT count(*) || ' ' || min(name) FROM users"); got != "1001 child" {
			t.Errorf("got %q", got)
		}
		wantError(t, d.try(nil, "golden", "rm", "shop"), 8, "child")
	})
}

// pgDump dumps the database of a clone into a file or directory of the host.
func pgDump(t *testing.T, d *daemon, id, format, path string) {
	t.Helper()
	args := []string{"exec", id, "--", "sh", "-c"}
	if format != "d" {
		r := d.try(nil, append(args, "exec pg_dump -F "+format+` "$PGDATABASE"`)...)
		if r.code != 0 {
			t.Fatalf("pg_dump: %s", r.stderr)
		}
		if err := os.WriteFile(path, []byte(r.stdout), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	c, err := client.Do(t.Context(), d.client, api.GetClone, api.CloneArgs{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	d.run(append(args, `rm -rf /tmp/dump && exec pg_dump -F d -f /tmp/dump "$PGDATABASE"`)...)
	if err := os.CopyFS(path, os.DirFS(fmt.Sprintf("/proc/%d/root/tmp/dump", c.PID))); err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, r result, code int, says ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s", r.code, code, r.stderr)
	}
	if r.stdout != "" {
		t.Errorf("stdout: %q", r.stdout)
	}
	for _, s := range says {
		if !strings.Contains(r.stderr, s) {
			t.Errorf("the error does not say %q:\n%s", s, r.stderr)
		}
	}
}

func wantNoGolden(t *testing.T, d *daemon, name string) {
	t.Helper()
	wantError(t, d.try(nil, "golden", "inspect", name), 3, name)
}

// TestDataDirectories builds from data directories: one that was shut down,
// one that was not, and ones that cannot be used.
func TestDataDirectories(t *testing.T) { t.Parallel(); modes(t, testDataDirectories) }

func testDataDirectories(t *testing.T, d *daemon) {
	d.file("schema.sql", schema+"ALTER ROLE postgres PASSWORD 'of the user';")
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	c := cloneJSON(t, d, "shop")
	query(t, c.URL, "INSERT INTO users VALUES (3000, 'not in a checkpoint')")
	live := filepath.Join(d.work, "crashed")
	data := dataDir(t, c.PID)
	query(t, c.URL, "CHECKPOINT")
	query(t, c.URL, "SET synchronous_commit = on; INSERT INTO users VALUES (3001, 'only in the WAL')")
	if out, err := exec.Command("cp", "-a", data, live).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	os.Remove(filepath.Join(live, "postmaster.pid"))
	d.run("golden", "build", "recovered", fromHost(), "--from-dir", live)
	if got := query(t, d.run("clone", "recovered"), "SELECT count(*) FROM users"); got != "1002" {
		t.Errorf("got %s rows", got)
	}
	t.Run("another version", func(t *testing.T) {
		other := filepath.Join(d.work, "other")
		if out, err := exec.Command("cp", "-a", live, other).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
		if err := os.WriteFile(filepath.Join(other, "PG_VERSION"), []byte("9.6\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, d.try(nil, "golden", "build", "bad", fromHost(), "--from-dir", other), 7, "9.6")
		wantNoGolden(t, d, "bad")
	})
	t.Run("another architecture", func(t *testing.T) {
		// pg_control begins with the system identifier (8 bytes) and its version
		// (4): in a file of another byte order the version reads as another number.
		control := filepath.Join(live, "global", "pg_control")
		b, err := os.ReadFile(control)
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(b[8:12])
		if err := os.WriteFile(control, b, 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, d.try(nil, "golden", "build", "bad", fromHost(), "--from-dir", live), 7)
		wantNoGolden(t, d, "bad")
	})
}

// dataDir finds the data directory of a server as the host sees it.
func dataDir(t *testing.T, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", serverOf(t, pid)))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(string(b), "\x00")
	i := slices.Index(args, "-D")
	if i < 0 {
		t.Fatalf("no -D in %q", args)
	}
	return fmt.Sprintf("/proc/%d/root%s", pid, args[i+1])
}

// TestWrongInput gets a clear error for each, and loses nothing.
func TestWrongInput(t *testing.T) { t.Parallel(); shopModes(t, testWrongInput) }

func testWrongInput(t *testing.T, d *daemon) {
	d.file("bad.sql", "CREATE TABLE ok (i int);\nINSERT INTO ok VALUES (1);\nINSERT INTO missing VALUES (1);\n")
	d.file("text.tar", "this is no archive")
	for name, tt := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"unknown golden":       {[]string{"clone", "nope"}, 3, []string{"nope", "golden ls"}},
		"unknown version":      {[]string{"clone", "shop:9"}, 3, []string{"shop:9"}},
		"slash":                {[]string{"golden", "build", "a/b", "--init", "schema.sql"}, 2, []string{"a/b"}},
		"dots":                 {[]string{"clone", "../shop"}, 2, []string{"../shop"}},
		"clone name":           {[]string{"clone", "shop", "--name", "../x"}, 2, []string{"../x"}},
		"failing SQL":          {[]string{"golden", "build", "bad", fromHost(), "--init", "schema.sql", "--init", "bad.sql"}, 7, []string{"bad.sql", "3", "missing"}},
		"no archive":           {[]string{"golden", "build", "bad", "--image-archive", "text.tar", "--init", "schema.sql"}, 2, []string{"text.tar", "not an image"}},
		"failing command":      {[]string{"golden", "build", "bad", fromHost(), "--exec", "exit 3"}, 7, []string{"exit 3"}},
		"no such prefix":       {[]string{"golden", "build", "bad", "--from-host=/nowhere", "--init", "schema.sql"}, 3, []string{"/nowhere"}},
		"two bases":            {[]string{"golden", "build", "bad", "--from-host", "--parent", "shop"}, 2, nil},
		"setting not allowed":  {[]string{"clone", "shop", "--set", "data_directory=/"}, 2, []string{"data_directory"}},
		"setting unknown":      {[]string{"clone", "shop", "--set", "no_such_setting=1"}, 2, []string{"no_such_setting"}},
		"ttl above the max":    {[]string{"clone", "shop", "--ttl", "999h"}, 2, []string{"24h"}},
		"no clone to remove":   {[]string{"rm", "cnothing"}, 3, []string{"cnothing"}},
		"promote what is not":  {[]string{"golden", "promote", "shop:7"}, 3, []string{"shop:7"}},
		"rollback of only one": {[]string{"golden", "rollback", "shop"}, 8, []string{"shop"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := d.try(nil, tt.args...)
			wantError(t, r, tt.code, tt.says...)
		})
	}
	wantNoGolden(t, d, "bad")
	if got := query(t, d.run("clone", "shop"), "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("the golden has %s rows", got)
	}
	clone := cloneJSON(t, d, "shop")
	wantError(t, d.try(nil, "golden", "rm", "shop"), 8, clone.ID)
}

// TestNoSpace fills the storage during a build: the build fails, the goldens
// and clones that are there do not.
func TestNoSpace(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[storage]\nsize = '1GiB'\n")
	d.file("schema.sql", schema)
	d.file("big.sql", "CREATE TABLE big AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 2000000) i;")
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	clone := d.run("clone", "shop")
	wantError(t, d.try(nil, "golden", "build", "big", fromHost(), "--init", "big.sql"), 5, "storage is full")
	wantNoGolden(t, d, "big")
	if got := query(t, clone, "INSERT INTO users VALUES (2001, 'room again') RETURNING name"); got != "room again" {
		t.Errorf("got %q", got)
	}
	// The build's files go behind its back, and the filesystem gives their room back later still.
	var again result
	waitFor(t, "room for another clone", func() bool {
		again = d.try(nil, "clone", "shop")
		return again.code != 5
	})
	if again.code != 0 {
		t.Fatalf("exit code %d: %s", again.code, again.stderr)
	}
	if got := query(t, strings.TrimSpace(again.stdout), "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("the golden has %s rows", got)
	}
}

// TestRemoveWhileCloning: a clone of a golden that is being removed is either
// whole or refused.
func TestRemoveWhileCloning(t *testing.T) { t.Parallel(); shopModes(t, testRemoveWhileCloning) }

func testRemoveWhileCloning(t *testing.T, d *daemon) {
	for range 5 {
		var clone, remove result
		var wg sync.WaitGroup
		wg.Go(func() { clone = d.try(nil, "clone", "shop") })
		wg.Go(func() { remove = d.try(nil, "golden", "rm", "shop") })
		wg.Wait()
		switch {
		case clone.code == 0 && remove.code == 8:
			if got := query(t, strings.TrimSpace(clone.stdout), "SELECT count(*) FROM users"); got != "1000" {
				t.Errorf("got %s rows", got)
			}
		case clone.code == 3 && remove.code == 0:
			d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
		default:
			t.Errorf("clone: %d %s\nremove: %d %s", clone.code, clone.stderr, remove.code, remove.stderr)
		}
		d.run("rm", "--all")
	}
}
