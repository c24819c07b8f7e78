package main_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKilledDuringClones kills the daemon: its clones go on answering, and
// the next daemon knows them.
func TestKilledDuringClones(t *testing.T) {
	t.Parallel()
	shopModes(t, func(t *testing.T, d *daemon) {
		url := d.run("clone", "shop", "--name", "survivor", "--label", "job=1")
		query(t, url, "INSERT INTO users VALUES (2001, 'before')")
		before := d.run("inspect", "survivor", "--format", "{{.id}} {{.pid}} {{.expires_at}} {{.url}} {{.labels}}")
		d.stop(syscall.SIGKILL)
		if got := query(t, url, "SELECT count(*) FROM users"); got != "1001" {
			t.Errorf("without a daemon the clone has %s rows", got)
		}
		d.start()
		if after := d.run("inspect", "survivor", "--format", "{{.id}} {{.pid}} {{.expires_at}} {{.url}} {{.labels}}"); after != before {
			t.Errorf("inspect says\n%s\nafter\n%s", after, before)
		}
		query(t, url, "INSERT INTO users VALUES (2002, 'after')")
		if got := d.run("exec", "survivor", "--", "psql", "-XAtc", "SELECT count(*) FROM users"); got != "1002" {
			t.Errorf("exec after the restart: %q", got)
		}
		if got := d.run("logs", "survivor"); !strings.Contains(got, "ready to accept connections") {
			t.Errorf("logs after the restart:\n%s", got)
		}
		d.run("rm", "survivor")
		if _, err := tryQuery(url, "SELECT 1"); err == nil {
			t.Error("the clone answers after rm")
		}
	})
}

// TestKilledDuringBuild kills the daemon at several points of a build: no
// golden and no garbage are left.
func TestKilledDuringBuild(t *testing.T) {
	t.Parallel()
	d := newShop(t, "")
	d.file("slow.sql", schema+"\nSELECT pg_sleep(300);\n")
	before := d.storageEntries()
	for _, at := range []string{"initdb", "slow.sql"} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		build := d.command(ctx, "golden", "build", "late", fromHost(), "--init", "slow.sql")
		stderr, err := build.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := build.Start(); err != nil {
			t.Fatal(err)
		}
		readUntil(t, stderr, at)
		d.stop(syscall.SIGKILL)
		_, _ = io.Copy(io.Discard, stderr)
		if err := build.Wait(); err == nil {
			t.Error("the build ended well without its daemon")
		}
		cancel()
		d.start()
		wantNoGolden(t, d, "late")
	}
	waitFor(t, "the storage to be as before", func() bool { return d.storageEntries() == before })
	if got := query(t, d.run("clone", "shop"), "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("the golden has %s rows", got)
	}
}

// storageEntries counts snapshot directories and spooled files.
func (d *daemon) storageEntries() int {
	n := 0
	for _, pattern := range []string{
		"root/storage/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/*",
		"root/storage/spool/*",
	} {
		paths, _ := filepath.Glob(filepath.Join(d.work, pattern))
		n += len(paths)
	}
	return n
}

func readUntil(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen strings.Builder
	b := make([]byte, 256)
	for !strings.Contains(seen.String(), text) {
		n, err := r.Read(b)
		seen.Write(b[:n])
		if err != nil {
			t.Fatalf("no %q in:\n%s", text, seen.String())
		}
	}
}

// TestRunEndsItsClone: whatever ends `run`, ends its clone, unless the daemon
// is only restarted meanwhile.
func TestRunEndsItsClone(t *testing.T) { t.Parallel(); shopModes(t, testRunEndsItsClone) }

func testRunEndsItsClone(t *testing.T, d *daemon) {
	start := func() (pid int, url string, end func() error) {
		ready := filepath.Join(d.work, "ready")
		os.Remove(ready)
		cmd := d.command(t.Context(), "run", "shop", "--", "sh", "-c", `echo "$DATABASE_URL" >ready.new && mv ready.new ready && read wait`)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the command to run", func() bool { _, err := os.Stat(ready); return err == nil })
		b, _ := os.ReadFile(ready)
		return cmd.Process.Pid, strings.TrimSpace(string(b)), func() error { stdin.Close(); return cmd.Wait() }
	}
	gone := func() bool { return d.run("ls", "--format", "{{.id}}") == "" }

	pid, url, end := start()
	query(t, url, "SELECT 1")
	_ = syscall.Kill(pid, syscall.SIGKILL)
	_ = end()
	waitFor(t, "the clone of a killed run to go", gone)

	_, url, end = start()
	query(t, url, "INSERT INTO users VALUES (2001, 'kept')")
	d.restart(syscall.SIGKILL)
	if got := query(t, url, "SELECT count(*) FROM users"); got != "1001" {
		t.Errorf("after the restart the clone has %s rows", got)
	}
	if gone() {
		t.Error("the restarted daemon does not know the clone of a run")
	}
	_ = end()
	waitFor(t, "the clone of a run that ended after a restart to go", gone)
}
