package host_test

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/base/host"
)

// postgresTree is what a PostgreSQL of Debian or Ubuntu consists of: this
// host's, or one whose packages were unpacked at the prefix that the
// environment names.
func postgresTree(t testing.TB) snapshot.HostTree {
	t.Helper()
	prefix := os.Getenv("CTRSNAP_TEST_POSTGRES")
	bins, _ := filepath.Glob(prefix + "/usr/lib/postgresql/*/bin/postgres")
	if len(bins) == 0 {
		t.Skip("needs a PostgreSQL server in " + prefix + "/usr/lib/postgresql")
	}
	version := filepath.Base(filepath.Dir(filepath.Dir(bins[len(bins)-1])))
	home, share := "/usr/lib/postgresql/"+version, "/usr/share/postgresql/"+version
	var libraries []string
	if prefix != "" {
		libraries, _ = filepath.Glob(prefix + "/usr/lib/*-linux-gnu")
	}
	return snapshot.HostTree{
		Name:        "postgresql " + version,
		LibraryPath: libraries,
		Files: []snapshot.HostFile{
			{Source: prefix + home + "/bin", Target: home + "/bin"},
			{Source: prefix + home + "/lib", Target: home + "/lib"},
			{Source: prefix + share, Target: share},
			{Source: "/usr/share/zoneinfo"},
			{Source: "/bin/sh"},
			{Source: "/nonexistent", Optional: true},
		},
		Users: []snapshot.User{{Name: "postgres", ID: 999, Home: "/var/lib/postgresql"}},
		Dirs:  []snapshot.HostDir{{Path: "/var/lib/postgresql", Mode: 0o700, UID: 999, GID: 999}},
	}
}

// TestPostgresRuns starts the programs of a host base in it.
func TestPostgresRuns(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	tree := postgresTree(t)
	start := time.Now()
	plan, err := host.Find(t.Context(), tree, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	found := time.Now()
	root := t.TempDir()
	if _, err := plan.Write(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	t.Logf("found in %s, wrote %d MB in %s", found.Sub(start), plan.Size()>>20, time.Since(found))

	// The runtime brings /dev.
	if err := syscall.Mknod(root+"/dev/null", syscall.S_IFCHR, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root+"/dev/null", 0o666); err != nil {
		t.Fatal(err)
	}

	bin := tree.Files[0].Target
	version := filepath.Base(filepath.Dir(bin))
	for _, tt := range []struct{ want, command string }{
		{"postgres (PostgreSQL) " + version, bin + "/postgres --version"},
		{"psql (PostgreSQL) " + version, bin + "/psql --version"},
		{"hello", "echo hello"},
		{"Success", bin + "/initdb -D /var/lib/postgresql/data -N"},
		{"timezone = 'Etc/UTC'", "while read -r l; do case $l in timezone*) echo \"$l\";; esac; done < /var/lib/postgresql/data/postgresql.conf"},
		{"llvmjit", "for f in " + filepath.Dir(bin) + "/lib/*jit.so; do echo $f; done"},
	} {
		out := chroot(t, root, tt.command)
		if !strings.Contains(out, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.command, out, tt.want)
		}
	}
}

// chroot runs command as the user of postgresTree in root.
func chroot(t *testing.T, root, command string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot:     root,
		Credential: &syscall.Credential{Uid: 999, Gid: 999},
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// BenchmarkFind measures what a hit costs.
func BenchmarkFind(b *testing.B) {
	tree := postgresTree(b)
	for b.Loop() {
		plan, err := host.Find(b.Context(), tree, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		_ = plan.Key()
	}
}
