package postgres

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/ctrsnap/ctrsnap/runtime"
)

func packed(t *testing.T, ext, text string) string {
	t.Helper()
	var buf bytes.Buffer
	switch ext {
	case ".gz":
		z := gzip.NewWriter(&buf)
		z.Write([]byte(text))
		must(t, z.Close())
	case ".zst":
		z, err := zstd.NewWriter(&buf)
		must(t, err)
		z.Write([]byte(text))
		must(t, z.Close())
	}
	return buf.String()
}

func TestBuildFromScripts(t *testing.T) {
	w := newBench(t)
	w.onHost = func(command string, env map[string]string) error {
		if command != "migrate" {
			t.Errorf("command %q", command)
		}
		psqlURL(t, env["DATABASE_URL"], "INSERT INTO item VALUES (5)")
		return nil
	}
	g, err := w.build(runtime.Sources{
		Init: []string{
			w.put("init", "1.sql", "CREATE TABLE item (id int PRIMARY KEY);\nINSERT INTO item VALUES (1);\n"),
			w.put("init", "2.sql.gz", packed(t, ".gz", "INSERT INTO item VALUES (2);")),
			w.put("init", "3.sql.zst", packed(t, ".zst", "INSERT INTO item VALUES (3);")),
			w.put("init", "4.sh", `psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c 'INSERT INTO item VALUES (4)'`+
				"\n\"${psql[@]}\" -c 'CREATE EXTENSION hstore'\n"),
		},
		Exec: []string{"migrate"},
	})
	must(t, err)
	if !strings.HasPrefix(g.EngineVersion, "1") {
		t.Errorf("version %q", g.EngineVersion)
	}
	checkGoldenFiles(t, w)
	c, ask := w.clone(g, map[string]string{"work_mem": "7MB"})
	if diff := cmp.Diff("1\n2\n3\n4\n5", ask("SELECT id FROM item ORDER BY id")); diff != "" {
		t.Error(diff)
	}
	if got := ask("SELECT current_setting('work_mem') || current_setting('fsync') || current_setting('server_encoding')"); got != "7MBoffUTF8" {
		t.Errorf("settings %s", got)
	}
	// How new relfrozenxid is depends on what is analyzed at the same time; no row is left unfrozen.
	if got := ask("SELECT count(*) FROM pg_class WHERE relname = 'item' AND relpages > 0 AND age(relfrozenxid) < (SELECT min(age(xmin)) FROM item)"); got != "1" {
		t.Error("the table was not vacuumed")
	}
	if c.User != "postgres" || c.Database != "shop" || len(c.Password) != 24 {
		t.Errorf("%s %s %d", c.User, c.Database, len(c.Password))
	}
	if got := psqlURL(t, c.URLs["socket"], "SELECT 1"); got != "1" {
		t.Error(got)
	}
}

// checkGoldenFiles says whether the data directory is one of a golden.
func checkGoldenFiles(t *testing.T, w *bench) {
	t.Helper()
	data := filepath.Join(w.root, "var/lib/postgresql/data")
	for _, name := range []string{"postmaster.pid", "postmaster.opts", "../../../../ctrsnap/live"} {
		if _, err := os.Lstat(filepath.Join(data, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
	segments, _ := filepath.Glob(data + "/pg_wal/0000*")
	if len(segments) > 2 || len(segments) == 0 {
		t.Errorf("WAL segments: %v", segments)
	}
	root, err := os.OpenRoot(data)
	must(t, err)
	defer root.Close()
	if c, err := readControl(root); err != nil || c.state != dbShutdowned {
		t.Errorf("control: %v, %v", c, err)
	}
}

func TestBuildFailures(t *testing.T) {
	for _, tt := range []struct {
		name, file, text string
		want             runtime.SourceError
	}{
		{"sql", "1.sql", "SELECT 1;\n\nSELECT * FROM nowhere;\n", runtime.SourceError{Line: 3, Message: `relation "nowhere" does not exist`}},
		{"gz", "1.sql.gz", packed(t, ".gz", "SELECT 1;\nSELECT 1/0;"), runtime.SourceError{Line: 2, Message: "division by zero"}},
		{"cut gz", "1.sql.gz", packed(t, ".gz", strings.Repeat("SELECT 1;\n", 99))[:40], runtime.SourceError{Message: "unpack: unexpected EOF"}},
		{"not gz", "1.sql.gz", "SELECT 1, 2, 3", runtime.SourceError{Message: "unpack: gzip: invalid header"}},
		{"sh", "1.sh", "echo oh >&2\nexit 3", runtime.SourceError{Message: "exit code 3: oh"}},
		{"kind", "1.exe", "", runtime.SourceError{Message: "unknown kind of script"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newBench(t)
			_, err := w.build(runtime.Sources{Init: []string{w.put("init", tt.file, tt.text)}})
			var got *runtime.SourceError
			if !errors.As(err, &got) {
				t.Fatalf("error %v", err)
			}
			tt.want.File = tt.file
			if diff := cmp.Diff(tt.want, *got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParentAndMask(t *testing.T) {
	w := newBench(t)
	const secret = "Hunter2OfTheRealCustomer"
	parent, err := w.build(runtime.Sources{Init: []string{w.put("init", "1.sql", fmt.Sprintf(
		`CREATE TABLE person (id int, name text); INSERT INTO person SELECT i, '%s' || i%%3 FROM generate_series(1, 2000) i;
		CREATE INDEX ON person (name);`, secret))}})
	must(t, err)
	if !grepData(t, w, secret) {
		t.Fatal("the value to be masked is not in the data to begin with")
	}
	g, err := w.build(runtime.Sources{
		Parent: &parent,
		Init:   []string{w.put("init", "2.sql", "CREATE TABLE more (id int)")},
		Mask:   []string{w.put("mask", "1.sql", "UPDATE person SET name = 'masked'")},
	})
	must(t, err)
	if grepData(t, w, secret) {
		t.Error("a masked value is in the files of the golden")
	}
	c, ask := w.clone(g, nil)
	if got := ask("SELECT count(*), (SELECT count(*) FROM more) FROM person WHERE name = 'masked'"); got != "2000|0" {
		t.Error(got)
	}
	ps, _ := stateOf(parent)
	if c.Password != ps.Passwd || c.User != ps.User {
		t.Error("the parent's login has changed")
	}
}

// grepData looks for text in all files of the data directory.
func grepData(t *testing.T, w *bench, text string) (found bool) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(w.root, "var/lib/postgresql/data"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			found = true
			t.Logf("%q is in %s", text, path)
		}
		return err
	})
	must(t, err)
	return found
}
