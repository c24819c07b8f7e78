package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// cuts is at how many places each format is cut.
func cuts(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CTRSNAP_TEST_CUTS")
	if text == "" {
		return 8
	}
	n, err := strconv.Atoi(text)
	must(t, err)
	return n
}

// TestCutDumps cuts dumps of MBs in each format, and says that none becomes a golden with less than the whole.
func TestCutDumps(t *testing.T) {
	l := newLive(t)
	psqlURL(t, l.url, `CREATE TABLE big AS SELECT i, md5(i::text) || repeat('x', 20) AS t FROM generate_series(1, 50000) i; CREATE INDEX ON big (i);
		CREATE TABLE small AS SELECT i FROM generate_series(1, 20000) i; CREATE TABLE empty (n int);
		DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM lo_from_bytea(0, decode(repeat('abcd', 5000), 'hex')); END LOOP; END $$`)
	const check = `SELECT (SELECT count(*) FROM big), (SELECT count(*) FROM small), (SELECT count(*) FROM item), (SELECT count(*) FROM pg_largeobject_metadata),
		(SELECT coalesce(sum(length(data)), 0) FROM pg_largeobject), (SELECT count(*) FROM pg_index WHERE indrelid = 'big'::regclass)`
	want := psqlURL(t, l.url, check)

	w := newBench(t)
	must(t, os.MkdirAll(filepath.Join(w.dir, "src/dump"), 0o755))
	b := &build{wb: w, src: runtime.Sources{Golden: "shop"}}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	defer func() { must(t, b.kill(context.Background(), nil)) }()
	must(t, b.found(ctx))
	before, err := b.databases(ctx)
	must(t, err)
	// try restores a dump by its name and returns what is in the database.
	try := func(name string) (string, error) {
		b.st.DB = ""
		if err := b.restoreDump(ctx, name); err != nil {
			return "", err
		}
		rows, err := b.query(ctx, b.st.DB, strings.Replace(strings.Replace(check, "SELECT ", "SELECT concat_ws('|', ", 1)+")", "))", "))", 1))
		must(t, err)
		return rows[0], nil
	}
	clear := func() {
		all, err := b.databases(ctx)
		must(t, err)
		for _, name := range all {
			if !slices.Contains(before, name) {
				_, err = b.query(ctx, "postgres", "DROP DATABASE "+ident(name))
				must(t, err)
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for _, tt := range []struct {
		name, program string
		args          []string
	}{
		{"custom", "pg_dump", []string{"-Fc"}}, {"custom unpacked", "pg_dump", []string{"-Fc", "-Z0"}}, {"tar", "pg_dump", []string{"-Ft"}}, {"directory", "pg_dump", []string{"-Fd"}},
		{"directory unpacked", "pg_dump", []string{"-Fd", "-Z0", "-B"}}, {"directory of inserts", "pg_dump", []string{"-Fd", "-Z0", "--inserts", "-B"}},
		{"plain", "pg_dump", nil}, {"plain with its database", "pg_dump", []string{"--create"}}, {"plain packed", "pg_dump", []string{"-Z1"}}, {"inserts", "pg_dump", []string{"--inserts", "--rows-per-insert=100"}}, {"all", "pg_dumpall", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			whole, want := filepath.Join(l.dir, "dump"), want
			if slices.Contains(tt.args, "-B") {
				want = strings.Replace(want, "|20|200000|", "|0|0|", 1)
			}
			must(t, os.RemoveAll(whole))
			l.dump(tt.program, append(tt.args, "-f", whole)...)
			wrong := 0
			for n := range cuts(t) {
				cut := filepath.Join(w.dir, "src/dump/cut")
				must(t, os.RemoveAll(cut))
				copyTree(t, whole, cut)
				what := shorten(t, cut, random, n)
				got, err := try("cut")
				if err == nil && got != want {
					wrong++
					t.Errorf("%s: built with %s, want %s", what, got, want)
				}
				if err != nil {
					t.Logf("%s: %v", what, err)
				}
				clear()
			}
			t.Logf("%d wrong", wrong)
			cut := filepath.Join(w.dir, "src/dump/cut")
			must(t, os.RemoveAll(cut))
			copyTree(t, whole, cut)
			filepath.WalkDir(cut, func(p string, d os.DirEntry, _ error) error {
				return os.Chmod(p, map[bool]os.FileMode{true: 0o755, false: 0o644}[d.IsDir()])
			})
			if got, err := try("cut"); err != nil || got != want {
				t.Errorf("the whole: %s, %v", got, err)
			}
			clear()
		})
	}
}

// shorten cuts a file, or one of a directory, at a place. It says where.
func shorten(t *testing.T, name string, random *rand.Rand, n int) string {
	t.Helper()
	must(t, os.Chmod(name, 0o755))
	if files, err := os.ReadDir(name); err == nil {
		for _, f := range files {
			must(t, os.Chmod(filepath.Join(name, f.Name()), 0o644))
		}
		slices.SortFunc(files, func(a, b os.DirEntry) int { // the big ones first
			ai, _ := a.Info()
			bi, _ := b.Info()
			return int(bi.Size() - ai.Size())
		})
		name = filepath.Join(name, files[n%min(6, len(files))].Name())
	}
	info, err := os.Stat(name)
	must(t, err)
	at := random.Int64N(info.Size())
	switch n {
	case 1:
		at = info.Size() - 1
	case 2:
		at = info.Size() * 94 / 100
	case 3:
		at = info.Size() * 30 / 100
	case 4:
		at = info.Size() - 1024
	case 5:
		at = (info.Size() / 2) &^ 511
	}
	at = max(0, at)
	must(t, os.Truncate(name, at))
	return fmt.Sprintf("%s of %d bytes cut at %d", filepath.Base(name), info.Size(), at)
}

func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*stallLimit)
		defer cancel()
		begun := time.Now()
		if err := stalled(ctx, func(context.Context) string { return "same" }); !errors.Is(err, errStalled) || time.Since(begun) > stallLimit+2*stallEvery {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	})
	for name, look := range map[string]func() func(context.Context) string{
		"at work": func() func(context.Context) string { return func(context.Context) string { return "" } },
		"moving": func() func(context.Context) string {
			n := 0
			return func(context.Context) string { n++; return strconv.Itoa(n / 10) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*stallLimit)
				defer cancel()
				if err := stalled(ctx, look()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestCountDumps(t *testing.T) {
	const begin, end = "--\n-- PostgreSQL database dump\n--\n", "--\n-- PostgreSQL database dump complete\n--\n"
	for text, want := range map[string]int{
		begin: 1, begin + "SELECT 1;\n" + end: 0, begin + end + begin: 1, begin + "SELECT '\n" + end + "';\n": 1, begin + "COPY t FROM stdin;\n" + end: 1,
		begin + "COPY t FROM stdin;\n" + end + "\\.\n" + end + "SELECT 1;": 0, strings.ReplaceAll(begin+end, "\n", "\r\n"): 0, "SELECT 1;" + end: 0, begin + strings.TrimSuffix(end, "\n--\n"): 1,
	} {
		for _, size := range []int{1, 3, 1 << 20} {
			f := newFilter(&slow{bytes.NewReader([]byte(text)), size}, true, false, nil)
			if _, err := new(bytes.Buffer).ReadFrom(f); err != nil || f.open != want || !f.ended {
				t.Errorf("%q, %d bytes at a time: %d open, want %d", text, size, f.open, want)
			}
		}
	}
}

// slow gives few bytes at a time.
type slow struct {
	r    *bytes.Reader
	size int
}

func (s *slow) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.size)]) }
