package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestUserNamespace: users of a clone are nobody on the host, and its files are on disk as the
// golden's.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	for runtime, first := range map[string]int{"ctrsnap": 0x6fff0000, "runc": 0x6ffe0000} {
		t.Run(runtime, func(t *testing.T) {
			t.Parallel()
			testUserNamespace(t, runtime, first)
		})
	}
}

func testUserNamespace(t *testing.T, runtime string, first int) {
	d := newDaemon(t, fmt.Sprintf("[containerd]\nruntime = %q\nuserns = 'on'\nids = %d\n[pool]\nauto = false\n", runtime, first))
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	c := cloneJSON(t, d, "shop", "--name", "mapped")
	if got := query(t, c.URLs["socket"], "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("by the socket: %s rows", got)
	}
	if c.Isolation != api.IsolationUsers {
		t.Errorf("isolation: %q", c.Isolation)
	}
	if got := string(mustRead(t, fmt.Sprintf("/proc/%d/uid_map", c.PID))); strings.Join(strings.Fields(got), " ") != fmt.Sprintf("0 %d 65536", first) {
		t.Errorf("users of the clone: %q", got)
	}
	if got := d.run("exec", "--user", "root", "mapped", "--", "sh", "-c", "touch /root/made && id -u && cat /proc/self/uid_map"); !strings.HasPrefix(got, "0\n") {
		t.Errorf("root: %q", got)
	}
	// See keyrings(7): a user who is not the host's root may have 200 keys, and this one is all clones'.
	if users := string(mustRead(t, "/proc/key-users")); runtime != "runc" && strings.Contains(users, fmt.Sprintf("\n%d:", first)) {
		t.Errorf("keys are of the clones' root:\n%s", users)
	}
	made, err := filepath.Glob(filepath.Join(d.work, "root/storage/containerd/*/snapshots/*/fs/root/made"))
	if err != nil || len(made) != 1 {
		t.Fatalf("file of root: %v, %v", made, err)
	}
	if st, err := os.Stat(made[0]); err != nil || st.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("file of root on disk: %+v, %v", st, err)
	}
	d.restart(syscall.SIGKILL)
	query(t, c.URL, "INSERT INTO users SELECT * FROM users LIMIT 0; SELECT 1")
	cloneJSON(t, d, "shop")
	if got := d.run("doctor"); !strings.Contains(got, fmt.Sprintf("%d to %d", first, first+65535)) {
		t.Errorf("doctor: %s", got)
	}
	d.stop(syscall.SIGTERM)
	if table := string(mustRead(t, "/proc/self/mountinfo")); strings.Contains(table, " "+filepath.Join(d.state, "mapped")) {
		t.Error("layers stay mapped without a daemon")
	}
	d.start()
}

// TestWithoutUserNamespace: where clones have none they are for administrators, who are told so; nobody else gets a build, a
// clone or a command in one.
func TestWithoutUserNamespace(t *testing.T) {
	t.Parallel()
	d := newTarget(t, "[containerd]\nuserns = 'off'\n")
	c := cloneJSON(t, d, "shop", "--name", "plain")
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", c.PID)); err != nil || got != own {
		t.Errorf("user namespace %s, %v; the host's is %s", got, err, own)
	}
	if c.Isolation != api.IsolationRunc {
		t.Errorf("isolation: %q", c.Isolation)
	}
	if got := d.run("ls"); !strings.Contains(got, "isolation: runc") {
		t.Errorf("ls: %s", got)
	}
	if got := d.run("doctor"); !strings.Contains(got, "userns is off") || !strings.Contains(got, "1 of the clones") {
		t.Errorf("doctor: %s", got)
	}
	r := d.tryAs(alice, "golden", "build", "hers", fromHost(), "--init", filepath.Join(d.work, "schema.sql"))
	wantError(t, r, 6, "userns is off")
	fails(t, "alice: build without user namespaces", r.stderr)
	r = d.tryAs(alice, "clone", "shop")
	wantError(t, r, 6, "userns is off")
	fails(t, "alice: clone without user namespaces", r.stderr)
}

// TestShimMissing: a clone that cannot have its place is refused, exit code 1, and leaves nothing; runc does not get it.
func TestShimMissing(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "[containerd]\nuserns = 'on'\n[pool]\nauto = false\n")
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	d.stop(syscall.SIGTERM)
	bin := filepath.Join(d.work, "bin")
	do(t, os.CopyFS(bin, os.DirFS(binDir())))
	do(t, os.Remove(filepath.Join(bin, "containerd-shim-ctrsnap-v1")))
	d.program = filepath.Join(bin, "ctrsnapd")
	d.start()
	wantError(t, d.try(nil, "clone", "shop"), 1, "containerd-shim-ctrsnap-v1 belongs beside ctrsnapd")
	wantError(t, d.try(nil, "golden", "build", "child", "--parent=shop", "--init", "schema.sql"), 1, "containerd-shim-ctrsnap-v1 belongs beside ctrsnapd")
	if got := d.run("ls", "-q"); got != "" {
		t.Errorf("clones: %s", got)
	}
}
