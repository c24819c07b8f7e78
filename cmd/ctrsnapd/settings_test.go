package main_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// TestSettings: a golden's settings are those of its build, its clones, those of its
// pool too, and of goldens on top of it; a clone's go over them; inspect says
// who chose what.
func TestSettings(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[pool]\nauto = false\n")
	d.file("ext.sql", schema+"CREATE EXTENSION pg_stat_statements; CREATE TABLE seen AS SELECT count(*) FROM pg_stat_statements;")
	d.run("golden", "build", "shop", fromHost(), "--init", "ext.sql", "--set", "shared_preload_libraries=pg_stat_statements", "--set", "work_mem=5MB")
	d.run("golden", "build", "child", "--parent", "shop", "--set", "jit=off")
	d.run("pool", "set", "child", "--size", "1")
	waitFor(t, "the pool to be full", func() bool { return pools(t, d)["child:1"].Ready == 1 })

	c := cloneJSON(t, d, "child")
	const sql = "SELECT current_setting('work_mem') || current_setting('jit') || (count(*) > 0) FROM pg_stat_statements"
	if got := query(t, c.URL, sql); got != "5MBofftrue" || c.Timings[api.StageClaim] == 0 {
		t.Errorf("a clone of the pool has %q: %+v", got, c.Timings)
	}
	own := d.run("clone", "child", "--name", "own", "--set", "work_mem=6MB")
	if got := query(t, own, sql); got != "6MBofftrue" {
		t.Errorf("a clone with its own has %q", got)
	}
	seen, err := client.Do(t.Context(), d.client, api.GetClone, api.CloneArgs{ID: "own"})
	if err != nil {
		t.Fatal(err)
	}
	from := map[string]string{}
	for _, s := range seen.ServerSettings {
		from[s.Name] = s.From
		if s.Name == "shared_buffers" { // in the server's own words
			if got := query(t, own, "SHOW shared_buffers"); got != s.Value {
				t.Errorf("%s is %s, not %s", s.Name, got, s.Value)
			}
		}
	}
	if from["work_mem"] != "clone" || from["jit"] != "golden" || from["fsync"] != "engine" {
		t.Errorf("who chose what: %v", from)
	}
	if got := d.run("inspect", "own", "-o", "table"); !strings.Contains(got, "durability is off") {
		t.Errorf("inspect does not say that durability is off:\n%s", got)
	}
	for _, set := range []string{"no_such_setting=1", "shared_preload_libraries=no_such_library"} {
		wantError(t, d.try(nil, "golden", "build", "bad", fromHost(), "--init", "ext.sql", "--set", set), 2, "no_such_")
	}
	wantNoGolden(t, d, "bad")
}

// TestPassword: a clone's own password is the one that lets in, whether it came from
// the pool or not, and is found nowhere but in its owner's hands.
func TestPassword(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[pool]\nauto = false\n")
	d.file("schema.sql", schema+"ALTER SYSTEM SET log_statement = 'all';")
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	d.run("pool", "set", "shop", "--size", "2")
	waitFor(t, "the pool to be full", func() bool { return pools(t, d)["shop:1"].Ready == 2 })
	plain := cloneJSON(t, d, "shop")
	passwords := map[string]bool{plain.Password: true}
	for _, args := range [][]string{{"shop"}, {"shop"}, {"shop"}, {"shop", "--set", "work_mem=5MB"}} {
		c := cloneJSON(t, d, append(args, "--password")...)
		if passwords[c.Password] || c.Password == "" || c.Env["tcp"]["PGPASSWORD"] != c.Password {
			t.Errorf("password %q of %s", c.Password, c.ID)
		}
		passwords[c.Password] = true
		if got := query(t, c.URL, "SELECT count(*) FROM users"); got != "1000" {
			t.Errorf("%s has %s rows", c.ID, got)
		}
		if verifier := query(t, c.URL, "SELECT rolpassword FROM pg_authid WHERE rolname = current_user"); !strings.HasPrefix(verifier, "SCRAM-SHA-256$4096:") {
			t.Errorf("%s keeps %q", c.ID, verifier)
		}
		other, err := url.Parse(c.URL)
		if err != nil {
			t.Fatal(err)
		}
		other.User = url.UserPassword(c.User, plain.Password)
		if _, err := tryQuery(other.String(), "SELECT 1"); err == nil {
			t.Errorf("the golden's password lets into %s", c.ID)
		}
		log := d.run("logs", c.ID)
		if strings.Contains(log, c.Password) || strings.Contains(log, "rolpassword = ") {
			t.Errorf("the server's log has it:\n%s", log)
		}
		waitFor(t, "the pool", func() bool { return pools(t, d)["shop:1"].Ready == 2 })
	}
	log, err := os.ReadFile(d.log())
	if err != nil {
		t.Fatal(err)
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		b, _ := os.ReadFile(line) // it may have ended
		log = append(log, b...)
	}
	for password := range passwords {
		if strings.Contains(string(log), password) {
			t.Errorf("the daemon's log or a command line has %q", password)
		}
	}
}
