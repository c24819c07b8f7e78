package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAttackDeputy: alice has a prefix whose files lead to what she may not read. The daemon may, and would copy it for her; and so may
// an administrator who builds from her prefix.
func TestAttackDeputy(t *testing.T) {
	t.Parallel()
	d := newTarget(t, "")
	hidden := filepath.Join(d.work, "root-only")
	do(t, os.MkdirAll(filepath.Join(hidden, "below"), 0o755))
	do(t, os.WriteFile(filepath.Join(hidden, "below", "x"), []byte("secret"), 0o644)) // all might read it, if they got there
	do(t, os.Chmod(hidden, 0o700))
	private := d.file("private", "secret")
	do(t, os.Chmod(private, 0o600))
	layer := goldenLayer(t, d)
	prefix := filepath.Join(d.work, "alice")
	plant := func(interpreter string) {
		for name, text := range map[string]string{
			"bin/postgres": "#!" + interpreter + "\n# postgres (PostgreSQL) 15.18\n", "bin/initdb": "#!" + interpreter + "\n",
			"share/postgres.bki": "", "lib/plpgsql.so": "",
		} {
			path := filepath.Join(prefix, name)
			do(t, os.MkdirAll(filepath.Dir(path), 0o755))
			do(t, os.WriteFile(path, []byte(text), 0o755))
		}
		do(t, os.Chown(prefix, alice, nogroup))
	}
	build := []string{"golden", "build", "evil", "--from-host=" + prefix, "--init", filepath.Join(d.work, "schema.sql")}
	for what, interpreter := range map[string]string{
		"a file below a directory of root's": filepath.Join(hidden, "below", "x"),
		"a directory of root's":              hidden,
		"a directory below one of root's":    filepath.Join(hidden, "below"),
		"a file of root's":                   private,
		"a file of a golden's":               filepath.Join(layer, "ctrsnap", "pg_hba.conf"),
		"the data of a golden":               dataDirOf(t, layer),
		"memory of the daemon":               "/proc/self/environ",
	} {
		plant(interpreter)
		for who, r := range map[string]result{"alice": d.tryAs(alice, build...), "an administrator, by alice's prefix": d.try(nil, build...)} {
			wantDenied(t, who+" copies "+what, "ermission denied", r.stderr, exitError(r))
		}
	}
	plant("/bin/sh") // the same with what anybody may read
	if r := d.tryAs(alice, build...); r.code == 0 || strings.Contains(r.stderr, "ermission denied") {
		t.Errorf("the attack itself is wrong: %s", r.stderr)
	}
	denied(t, "alice: look into the storage", asThread(alice, nogroup, func() error {
		_, err := os.Stat(filepath.Join(d.work, "root", "storage", "containerd"))
		return err
	}))
}
