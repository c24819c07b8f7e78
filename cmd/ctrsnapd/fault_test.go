package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// clonePoints are the failpoints that a clone of a golden without a pool comes by.
var clonePoints = []string{
	"golden.prepared", "netpool.take", "netpool.taken", "clone.prepared", "clone.connected", "clone.files", "clone.reserved", "runner.recorded", "runner.created",
	"clone.created", "clone.started", "clone.ready", "clone.kept", "clone.hand out",
}

// TestFaults has one thing after the other fail: the caller is told, other clones go on, and nothing is left.
// runtime/DESIGN.md has a row for each.
func TestFaults(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[pool]\nauto = false\n[storage]\nsize = \"1GiB\"\n")
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	d.run("clone", "shop", "--name", "other", "--ttl", "3h")
	for _, fault := range []struct {
		name string
		test func(t *testing.T, d *daemon)
	}{
		{"step", faultStep},
		{"ports and interfaces", faultNetwork},
		{"no space", faultNoSpace},
		{"frozen", faultFrozen},
		{"hung", faultHung},
		{"memory", faultMemory},
		{"pids", faultPids},
		{"descriptors", faultDescriptors},
		{"state full", faultState},
		{"inodes", faultInodes},
		{"read-only", faultReadOnly},
		{"stopped", faultStopped},
		{"metadata damaged", faultMetadata},
		{"golden damaged", faultDamaged},
	} {
		t.Run(fault.name, func(t *testing.T) {
			defer d.lend(t)()
			fault.test(t, d)
			if got := d.run("ls", "--format", "{{.name}}"); got != "other" {
				t.Errorf("listed are %q", got)
			}
			waitFor(t, "what failed to be gone", func() bool { return len(d.orphans("--dry-run")) == 0 })
			if got := query(t, d.run("inspect", "other", "--format", "{{.url}}"), "SELECT count(*) FROM users"); got != "1000" {
				t.Errorf("another clone has %s rows", got)
			}
			var after result
			waitFor(t, "a clone", func() bool { // the daemon looks at what is free now and then
				after = d.try(nil, "clone", "shop", "--name", "after")
				return after.code != 5
			})
			if after.code != 0 {
				t.Fatalf("a clone afterwards: exit code %d: %s", after.code, after.stderr)
			}
			query(t, strings.TrimSpace(after.stdout), "SELECT 1")
			d.run("rm", "after")
			waitFor(t, "it to be torn down", func() bool { // its directory goes last
				left, _ := filepath.Glob(filepath.Join(d.state, "clones/*"))
				return len(left) == 1
			})
		})
	}
	d.run("rm", "other")
}

// lend has a subtest fail for what goes wrong with the daemon. In the end the daemon is as the next subtest expects
// it, whatever this one has left.
func (d *daemon) lend(t *testing.T) (giveBack func()) {
	whole := d.t
	d.t = t
	return func() {
		d.t = whole
		if !t.Failed() {
			return
		}
		d.restart(syscall.SIGTERM)
		for _, name := range strings.Fields(d.run("ls", "--format", "{{.name}}")) {
			if name != "other" {
				d.run("rm", name)
			}
		}
		if r := d.try(nil, "clone", "shop", "--name", "other", "--ttl", "3h", "--if-exists", "reset"); r.code != 0 {
			d.t.Errorf("after a fault: %s", r.stderr)
		}
	}
}

// wantRefused asks for a clone and is told that there is none.
func wantRefused(t *testing.T, d *daemon, says string) {
	t.Helper()
	r := d.try(nil, "clone", "shop", "--name", "failed")
	if r.code == 0 || r.stdout != "" || !strings.Contains(r.stderr, says) {
		t.Errorf("exit code %d, stdout %q, want %q in stderr:\n%s", r.code, r.stdout, says, r.stderr)
	}
	t.Logf("exit code %d: %s", r.code, strings.TrimSpace(r.stderr))
}

// faultStep fails each step of a clone's creation: all before it is undone.
func faultStep(t *testing.T, d *daemon) {
	defer d.restart(syscall.SIGTERM)
	for _, point := range clonePoints {
		d.stop(syscall.SIGTERM)
		if err := d.launch("CTRSNAPD_FAILPOINT=" + point + "=error"); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, d, "")
		if found := d.orphans("--dry-run"); len(found) > 0 {
			t.Errorf("%s: left are %v", point, found)
		}
	}
}

// faultNoSpace fills the storage.
func faultNoSpace(t *testing.T, d *daemon) {
	ballast := filepath.Join(d.work, "root/storage/ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(ballast)
	defer f.Close()
	var size int64
	for step := int64(256 << 20); step >= 4096; {
		if unix.Fallocate(int(f.Fd()), 0, size, step) == nil {
			size += step
		} else {
			step /= 2
		}
	}
	// A clone takes next to nothing before it answers: one may be made until the daemon has
	// looked at what is free.
	var r result
	waitFor(t, "clones to be refused", func() bool {
		if r = d.try(nil, "clone", "shop", "--name", "failed"); r.code == 0 {
			d.run("rm", "failed")
		}
		return r.code != 0
	})
	if t.Logf("exit code %d: %s", r.code, r.stderr); r.code != 5 || r.stdout != "" {
		t.Errorf("exit code %d, stdout %q", r.code, r.stdout)
	}
	if r := d.try(nil, "golden", "build", "late", fromHost(), "--init", "schema.sql"); r.code == 0 {
		t.Errorf("a golden was built without space")
	} else {
		t.Logf("exit code %d: %s", r.code, r.stderr)
	}
}

// faultFrozen freezes a clone: it can be removed.
func faultFrozen(t *testing.T, d *daemon) {
	c := cloneJSON(t, d, "shop", "--name", "frozen")
	defer d.try(nil, "rm", "frozen")
	d.wantCtr(0, "", "pause", c.ID)
	d.run("rm", "frozen")
	if _, err := tryQuery(c.URL, "SELECT 1"); err == nil {
		t.Error("it answers after it was removed")
	}
}

// faultHung stops a server's processes.
func faultHung(t *testing.T, d *daemon) {
	c := cloneJSON(t, d, "shop", "--name", "hung")
	if err := syscall.Kill(serverOf(t, c.PID), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.run("rm", "hung")
}

// faultDamaged changes a byte of a golden's layer, below everything: the background finds it
// and clones of it are refused, those that wait in the pool too, until it is verified well.
func faultDamaged(t *testing.T, d *daemon) {
	d.run("pool", "set", "shop", "--size", "1")
	waitFor(t, "a member of the pool", func() bool { return d.run("pool", "ls", "--format", "{{.ready}}") == "1" })
	text := string(mustRead(t, d.config()))
	defer func() {
		do(t, os.WriteFile(d.config(), []byte(text), 0o600))
		d.restart(syscall.SIGTERM)
		d.run("pool", "set", "shop", "--auto")
	}()
	do(t, os.WriteFile(d.config(), []byte(strings.Replace(text, "[storage]\n", "[storage]\nverify = '1s'\n", 1)), 0o600))
	d.restart(syscall.SIGTERM)

	file := goldenFile(t, d, "global/pg_control")
	sound := mustRead(t, file)
	defer func() {
		do(t, os.WriteFile(file, sound, 0o600))
		d.run("golden", "verify", "shop")
	}()
	flip(t, file)
	waitFor(t, "the damage to be found", func() bool { return strings.Contains(d.run("golden", "inspect", "shop", "-o", "json"), "damaged_at") })
	wantRefused(t, d, "is damaged")
	if r := d.try(nil, "clone", "shop:1"); r.code != 7 {
		t.Errorf("a clone of a damaged golden: exit code %d", r.code)
	}
	if r := d.try(nil, "golden", "verify", "shop"); r.code != 7 {
		t.Errorf("verify a damaged golden: exit code %d: %s", r.code, r.stderr)
	}
	if got := d.try(nil, "doctor").stdout + d.run("events", "--type", "golden.damaged"); strings.Count(got, "shop:1") < 2 {
		t.Errorf("doctor and events say %s", got)
	}
	d.restart(syscall.SIGKILL)
	wantRefused(t, d, "is damaged")
}

// goldenFile finds a file of the golden that has it, in its layer.
func goldenFile(t *testing.T, d *daemon, name string) (found string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(d.work, "root/storage/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"), func(path string, _ os.DirEntry, _ error) error {
		if strings.HasSuffix(path, "/"+name) && !strings.Contains(path, "/work/") && (found == "" || len(path) < len(found) || path < found) {
			found = path
		}
		return nil
	})
	if found == "" {
		t.Fatalf("no file %s of a golden found", name)
	}
	return found
}

// flip changes a bit of a file's last byte, or changes it back.
func flip(t *testing.T, file string) {
	t.Helper()
	b := mustRead(t, file)
	b[len(b)-1] ^= 1
	do(t, os.WriteFile(file, b, 0o600))
}

func do(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
