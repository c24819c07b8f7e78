package main_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// nobody is a user without rights, in a group that the daemon lets in.
const nobody, nogroup = 65534, 65534

// tryAs runs the command line as a user in the group nogroup.
func (d *daemon) tryAs(uid uint32, args ...string) result {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := d.command(ctx, args...)
	cmd.Path = d.reachable(cmd.Path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: nogroup}}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// reachable copies a program to where every user may run it: it may have been
// built in somebody's home.
func (d *daemon) reachable(program string) string {
	d.t.Helper()
	path := filepath.Join(d.work, filepath.Base(program))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.WriteFile(path, mustRead(d.t, program), 0o755); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// TestOrdinaryUser: who is in the group works without root, who is not is told so.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[api]\ngroup = 'nogroup'\n")
	if err := os.Chmod(d.work, 0o755); err != nil {
		t.Fatal(err)
	}
	d.file("schema.sql", schema)
	base := fromHost()
	if os.Getenv("CTRSNAP_TEST_POSTGRES") != "" { // which may lie where this user must not use it
		d.file("none.sql", "SELECT 1;\n")
		d.run("golden", "build", "base", base, "--init", "none.sql")
		base = "--parent=base"
	}
	if r := d.tryAs(nobody, "golden", "build", "shop", base, "--init", filepath.Join(d.work, "schema.sql")); r.code != 0 {
		t.Fatalf("golden build: %s", r.stderr)
	}
	r := d.tryAs(nobody, "clone", "shop", "--via", "socket")
	if r.code != 0 {
		t.Fatalf("clone: %s", r.stderr)
	}
	url := strings.TrimSpace(r.stdout)
	if got := query(t, url, "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("got %s rows", got)
	}
	if r := d.tryAs(nobody, "rm", "--all"); r.code != 0 {
		t.Errorf("rm: %s", r.stderr)
	}

	outsider := d.config()
	if err := os.WriteFile(outsider, bytes.ReplaceAll(mustRead(t, outsider), []byte("'nogroup'"), []byte("'root'")), 0o600); err != nil {
		t.Fatal(err)
	}
	d.restart(syscall.SIGTERM)
	wantError(t, d.tryAs(nobody, "ls"), 6, "not allowed", "group")
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// socketClient speaks HTTP to the daemon.
func socketClient(d *daemon) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(d.host(), "unix://"))
	}, DisableKeepAlives: true}}
}
