package main_test

import (
	"strings"
	"testing"
)

// TestServerRestarts has the server of a clone start again: by its user, by itself, by pg_ctl beside it. The data stay, and so do
// addresses and the password; what was set by ALTER SYSTEM counts.
func TestServerRestarts(t *testing.T) {
	t.Parallel()
	d := newShop(t, "[pool]\nauto = false\n")
	c := cloneJSON(t, d, "shop", "--name", "again", "--password")
	query(t, c.URL, "INSERT INTO users VALUES (4000, 'stays')")
	query(t, c.URL, "CREATE TABLE later (n int)") // the golden's relation cache does not know it
	query(t, c.URL, "ALTER SYSTEM SET max_connections = 33")
	answers := func(what string) {
		t.Helper()
		waitFor(t, "the server after "+what, func() bool { _, err := tryQuery(c.URL, "SELECT 1"); return err == nil })
		if got := query(t, c.URL, "SELECT name FROM users WHERE id = 4000 AND to_regclass('later') IS NOT NULL"); got != "stays" {
			t.Errorf("after %s: %q", what, got)
		}
	}
	if got := strings.TrimSpace(d.run("restart", "again")); got != c.ID {
		t.Errorf("restart says %q", got)
	}
	answers("ctrsnap restart")
	if got := query(t, c.URL, "SHOW max_connections"); got != "33" {
		t.Errorf("max_connections is %s", got)
	}
	const data = "$(psql -XAtc 'SHOW data_directory')"
	if out := d.run("exec", "again", "--", "sh", "-c", "pg_ctl restart -m fast -l /tmp/log -D "+data+" && psql -XAtc 'SELECT 5'"); !strings.HasSuffix(strings.TrimSpace(out), "5") {
		t.Errorf("pg_ctl restart: %s", out)
	}
	answers("pg_ctl restart")
	d.run("restart", "again") // of the server that pg_ctl has started
	answers("another restart")
	d.run("exec", "again", "--", "sh", "-c", "pg_ctl stop -m fast -D "+data)
	answers("pg_ctl stop")
	if log := d.run("logs", "again"); !strings.Contains(log, "ended in order and is started again") {
		t.Errorf("the log does not say so: %s", log)
	}
	d.restart(9)
	d.run("restart", "again")
	answers("a restart by another daemon")
	_ = d.try(nil, "exec", "again", "--", "sh", "-c", `kill -9 "$(head -n 1 `+data+`/postmaster.pid)"`)
	waitFor(t, "the clone to be dead", func() bool { return d.run("inspect", "again", "--format", "{{.state}}") == "dead" })
	wantError(t, d.try(nil, "restart", "again"), 8, "has ended")
}
