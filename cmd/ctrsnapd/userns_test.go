package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUserNamespace: users of a clone are nobody on the host, and its files are on disk as the
// golden's.
func TestUserNamespace(t *testing.T) {
	t.Parallel()
	const first = 0x6fff0000
	d := newDaemon(t, fmt.Sprintf("[containerd]\nuserns = 'on'\nids = %d\n[pool]\nauto = false\n", first))
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	c := cloneJSON(t, d, "shop", "--name", "mapped")
	if got := query(t, c.URLs["socket"], "SELECT count(*) FROM users"); got != "1000" {
		t.Errorf("by the socket: %s rows", got)
	}
	if got := string(mustRead(t, fmt.Sprintf("/proc/%d/uid_map", c.PID))); strings.Join(strings.Fields(got), " ") != fmt.Sprintf("0 %d 65536", first) {
		t.Errorf("users of the clone: %q", got)
	}
	if got := d.run("exec", "--user", "root", "mapped", "--", "sh", "-c", "touch /root/made && id -u && cat /proc/self/uid_map"); !strings.HasPrefix(got, "0\n") {
		t.Errorf("root: %q", got)
	}
	// See keyrings(7): a user who is not the host's root may have 200 keys, and this one is all clones'.
	if users := string(mustRead(t, "/proc/key-users")); strings.Contains(users, fmt.Sprintf("\n%d:", first)) {
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
	if table := string(mustRead(t, "/proc/self/mountinfo")); strings.Contains(table, filepath.Join(d.state, "mapped")) {
		t.Error("layers stay mapped without a daemon")
	}
	d.start()
}

// TestWithoutUserNamespace: where clones cannot have one, they go without or the daemon says why
// it does not start.
func TestWithoutUserNamespace(t *testing.T) {
	t.Parallel()
	const runc = "[containerd]\nruntime = 'runc'\n[pool]\nauto = false\n"
	d := newDaemon(t, runc)
	d.file("schema.sql", schema)
	d.run("golden", "build", "shop", fromHost(), "--init", "schema.sql")
	c := cloneJSON(t, d, "shop")
	own, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", c.PID)); err != nil || got != own {
		t.Errorf("user namespace %s, %v; the host's is %s", got, err, own)
	}
	if got := d.run("doctor"); !strings.Contains(got, "own runtime") {
		t.Errorf("doctor: %s", got)
	}
	d.stop(syscall.SIGTERM)
	file := mustRead(t, d.config())
	if err := os.WriteFile(d.config(), []byte(strings.Replace(string(file), "runtime = 'runc'", "runtime = 'runc'\nuserns = 'on'", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.launch(); err == nil {
		t.Error("started without what containerd.userns wants")
	}
	if log := string(mustRead(t, d.log())); !strings.Contains(log, "own runtime") {
		t.Errorf("the log does not say why:\n%s", log)
	}
	if err := os.WriteFile(d.config(), file, 0o600); err != nil {
		t.Fatal(err)
	}
	d.start()
}
