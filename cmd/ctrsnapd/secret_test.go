package main_test

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecrets looks for passwords where others could read them: that of a clone's own, and
// that of a database which a golden is built from.
func TestSecrets(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[log]\nlevel = 'debug'\n")
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	address := d.run("clone", "shop", "--name", "source", "--password")
	u, err := url.Parse(address)
	do(t, err)
	secret, _ := u.User.Password()
	if len(secret) < 16 {
		t.Fatalf("no password in %s", address)
	}
	query(t, address, "SELECT 1")
	wrong := *u
	wrong.User = url.UserPassword(u.User.Username(), secret+"x")
	if r := d.try(nil, "golden", "build", "never", fromHost(), "--from-url", wrong.String()); r.code == 0 || strings.Contains(r.stdout+r.stderr, secret) {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	d.run("golden", "build", "copy", fromHost(), "--from-url", address)

	arguments, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range append(arguments, d.log(), filepath.Join(d.work, "root/audit.log")) {
		if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), secret) {
			t.Errorf("the password is in %s", file)
		}
	}
	for _, args := range [][]string{{"events", "-o", "json"}, {"golden", "ls", "-o", "json"}, {"golden", "inspect", "copy", "-o", "json"}, {"doctor", "-o", "json"}, {"logs", "source"}} {
		if strings.Contains(d.run(args...), secret) {
			t.Errorf("the password is in what %s prints", strings.Join(args, " "))
		}
	}
}
