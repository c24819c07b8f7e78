package build

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// built builds, and returns the sources that it gets.
func built(t *testing.T, r *request, look func(dir string)) (src runtime.Sources, err error) {
	t.Helper()
	w := newWorld(t)
	w.engine = func(_ context.Context, wb runtime.Workbench, s runtime.Sources) (b runtime.Built, err error) {
		src = s
		if look != nil {
			look(wb.SourceDir())
		}
		return b, nil
	}
	_, _, err = w.run(t.Context(), r)
	return src, err
}

// Of a directory the scripts at its top run, as in official images; all is there to be read, with its mode.
func TestInitDirectory(t *testing.T) {
	script := file("run.sh")
	script.Mode = 0o755
	d := tarOf(t, dir("./"), file("b.sql"), file("10.sql.xz"), file(".hidden.sql"), file("data.csv"), dir("sub/"), file("sub/c.sql"),
		link("a.sql", "sub/c.sql"), link("nowhere.sql", "sub/d.sql"), script)
	src, err := built(t, shop(part("init-tar", "db.tar", string(d)), part("init", "last.sql", ""),
		part("init-tar", "run.sh.tar", string(tarOf(t, script)))), func(spool string) {
		if info, err := os.Stat(filepath.Join(spool, "init/0001-db/run.sh")); err != nil || info.Mode().Perm() != 0o755 {
			t.Error(info, err)
		}
		for _, name := range []string{"data.csv", "sub/c.sql", ".hidden.sql"} {
			if _, err := os.Stat(filepath.Join(spool, "init/0001-db", name)); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"0001-db/10.sql.xz", "0001-db/a.sql", "0001-db/b.sql", "0001-db/run.sh", "0002-last.sql", "0003-run.sh/run.sh"}
	if diff := cmp.Diff(want, src.Init); diff != "" {
		t.Error(diff)
	}
	for name, d := range map[string][]byte{"none": tarOf(t, file("data.csv"), file(".a.sql")), "out": tarOf(t, link("a.sql", "../b.sql"))} {
		if _, err := built(t, shop(part("init-tar", "db.tar", string(d))), nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A dump that is a directory may come in a tar that is packed. A tar that pg_dump has written stays one.
func TestPackedDumpDirectory(t *testing.T) {
	zip := func(entries ...tar.Header) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(tarOf(t, entries...))
		_ = z.Close()
		return b.String()
	}
	for _, c := range []struct{ name, content, want, there string }{
		{"shop.tar.gz", zip(dir("shop/"), file("shop/toc.dat"), file("shop/1.dat.gz")), "0002-dump/shop", "shop/1.dat.gz"},
		{"shop.tgz", zip(dir("./"), file("./toc.dat"), file("./1.dat")), "0002-dump", "1.dat"},
		{"plain.tar", string(tarOf(t, dir("a/"), file("a/toc.dat"))), "0002-dump/a", "a/toc.dat"},
		{"pg.tar.gz", zip(file("toc.dat"), file("1.dat")), "0001-pg.tar.gz", ""},
		{"other.tgz", zip(file("x")), "0001-other.tgz", ""},
		{"shop.sql", "-- SQL", "0001-shop.sql", ""},
		{"empty", "", "0001-empty", ""},
	} {
		src, err := built(t, shop(part("dump", c.name, c.content)), func(spool string) {
			if c.there == "" {
				return
			}
			if _, err := os.Stat(filepath.Join(spool, "dump/0002-dump", c.there)); err != nil {
				t.Error(err)
			}
		})
		if err != nil || src.Dump != c.want {
			t.Errorf("%s: %q, want %q: %v", c.name, src.Dump, c.want, err)
		}
	}
}
