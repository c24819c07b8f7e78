package peer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestAdaptReplacesWhatIsOfTheClone(t *testing.T) {
	o := Original{DataDir: "/var/lib/data", Args: []string{
		"/usr/bin/postgres", "-D", "/var/lib/data", "-c", "fsync=off", "-c", "hba_file=/ctrsnap/pg_hba.conf", "-c", "config_file=/ctrsnap/postgresql.conf", "-c", "listen_addresses=*",
		"-c", "port=5432", "-c", "unix_socket_directories=/ctrsnap/run", "-c", "data_directory=/var/lib/data",
	}}
	want := []string{
		"/usr/bin/postgres", "-D", "/copy", "-c", "fsync=off", "-c", "hba_file=/hba", "-c", "config_file=/conf", "-c", "listen_addresses=127.0.0.1",
		"-c", "port=77", "-c", "unix_socket_directories=/sock", "-c", "data_directory=/copy",
	}
	if diff := cmp.Diff(want, o.adapt("/copy", "/hba", "/conf", "/sock", "77")); diff != "" {
		t.Error(diff)
	}
	if o.dataDir() != "/var/lib/data" || o.setting("fsync") != "off" || o.setting("sync") != "" {
		t.Errorf("data directory %q, fsync %q", o.dataDir(), o.setting("fsync"))
	}
}

func TestLayers(t *testing.T) {
	for options, want := range map[string][]string{
		"rw,lowerdir=/l/2/fs:/l/1/fs,upperdir=/l/3/fs,workdir=/l/3/work,volatile": {"/l/2/fs", "/l/1/fs"},
		"rw,lowerdir+=/l/2/fs,lowerdir+=/l/1/fs,upperdir=/u":                      {"/l/2/fs", "/l/1/fs"},
		"rw,size=65536k": nil,
	} {
		if got := layers(options); !slices.Equal(got, want) {
			t.Errorf("%s: got %q", options, got)
		}
	}
}

func TestLowerFindsTheGolden(t *testing.T) {
	dir := t.TempDir()
	golden := filepath.Join(dir, "2", "var", "data")
	if err := os.MkdirAll(golden, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(golden, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := filepath.Join(dir, "mountinfo")
	line := "30 20 0:40 / / rw,relatime - overlay overlay rw,lowerdir=" + dir + "/3:" + dir + "/2:" + dir + "/1,upperdir=" + dir + "/4\n"
	if err := os.WriteFile(mounts, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := lower(mounts, "/var/data"); err != nil || got != golden {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := lower(mounts, "/elsewhere"); err == nil {
		t.Errorf("got %q for a directory that is nowhere", got)
	}
}

func TestLocate(t *testing.T) {
	prefix := t.TempDir()
	program := filepath.Join(prefix, "bin", "postgres")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	o := Original{Args: []string{"/nowhere/bin/postgres", "-D", "x"}}
	if err := o.Locate(""); err == nil {
		t.Errorf("found %q", o.Args[0])
	}
	if err := o.Locate(prefix); err != nil || o.Args[0] != program {
		t.Errorf("found %q, %v", o.Args[0], err)
	}
}

// A copy that shares no blocks would be no fair rival: it must be refused.
func TestReflinkCopiesOrRefuses(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.MkdirAll(filepath.Join(src, "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "base", "1"), []byte("rows"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("base", filepath.Join(src, "link")); err != nil {
		t.Fatal(err)
	}
	err := Reflink(src, dst)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return // refused, as it must be on a filesystem that cannot
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dst, "link", "1"))
	if err != nil || string(b) != "rows" {
		t.Errorf("got %q, %v", b, err)
	}
	if info, err := os.Stat(filepath.Join(dst, "base")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v", info, err)
	}
}
