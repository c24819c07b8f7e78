package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

func TestGlob(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a.sql", "b.txt", "db/1.sql", "db/x/2.sql", "db/x/y/3.sql", "db/x/.hidden", ".git/config", "other/1.sql"} {
		writeFile(t, filepath.Join(dir, name), name, 0o600)
	}
	if err := os.Symlink("db", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for pattern, want := range map[string]string{
		"*.sql":           "a.sql",
		"./a.sql":         "a.sql",
		"**/*.sql":        "a.sql db/1.sql db/x/2.sql db/x/y/3.sql other/1.sql",
		"db/**":           "db/1.sql db/x/.hidden db/x/2.sql db/x/y/3.sql",
		"db":              "db/1.sql db/x/.hidden db/x/2.sql db/x/y/3.sql",
		"db/**/3.sql":     "db/x/y/3.sql",
		"db/*/2.sql":      "db/x/2.sql",
		"db/?.sql":        "db/1.sql",
		"db/x/**/*.sql":   "db/x/2.sql db/x/y/3.sql",
		"**/x/**":         "db/x/.hidden db/x/2.sql db/x/y/3.sql",
		"link/1.sql":      "link/1.sql",
		"link/*.sql":      "link/1.sql",
		"nothing/*":       "",
		"db/1.sql/*":      "",
		dir + "/db/*.sql": dir + "/db/1.sql",
	} {
		got, err := glob(pattern)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("glob(%q) = %q, %v, want %q", pattern, got, err, want)
		}
	}
	if _, err := glob("[a"); err == nil {
		t.Error("a bad pattern is accepted")
	}
}

func TestKeyIsContent(t *testing.T) {
	t.Chdir(t.TempDir())
	writeFile(t, "a/1.sql", "one", 0o600)
	writeFile(t, "a/2.sql", "two", 0o600)
	key := func(globs ...string) string {
		k, err := keyOf(globs)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	before := key("a/**")
	if got := key("a/2.sql", "a/*", "a/1.sql"); got != before {
		t.Error("the order of globs, or a file that two match, counts")
	}
	if err := os.Chtimes("a/1.sql", time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if key("a/**") != before {
		t.Error("the time of a file counts")
	}
	for change, do := range map[string]func() error{
		"content": func() error { return os.WriteFile("a/1.sql", []byte("One"), 0o600) },
		"name":    func() error { return os.Rename("a/2.sql", "a/3.sql") },
		"new":     func() error { return os.WriteFile("a/4.sql", nil, 0o600) },
	} {
		was := key("a/**")
		if err := do(); err != nil {
			t.Fatal(err)
		}
		if key("a/**") == was {
			t.Errorf("%s does not count", change)
		}
	}
}

func FuzzGlobMatch(f *testing.F) {
	f.Add("**/a/*", "x/a/b")
	f.Fuzz(func(_ *testing.T, pattern, name string) {
		if strings.Count(pattern, "**") < 6 {
			matches(strings.Split(pattern, "/"), strings.Split(name, "/"))
		}
	})
}

// TestPartDigests: names, content and order count; times and modes do not.
func TestPartDigests(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) client.Part {
		return client.Part{Kind: api.PartInit, Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
	}
	digest := func(parts ...client.Part) string {
		t.Helper()
		d, err := partDigests(parts)
		if err != nil || len(d) != 1 || len(d[parts[0].Kind]) != 32 {
			t.Fatal(d, err)
		}
		return d[parts[0].Kind]
	}
	one := digest(file("a.sql", "1"), file("b.sql", "2"))
	for name, other := range map[string]string{
		"order": digest(file("b.sql", "2"), file("a.sql", "1")), "content": digest(file("a.sql", "1"), file("b.sql", "3")),
		"name": digest(file("a.sql", "1"), file("c.sql", "2")), "borders": digest(file("a.sql", "12"), file("b.sql", "")),
	} {
		if other == one {
			t.Errorf("another %s does not count", name)
		}
	}
	tree := func() string {
		var b build
		b.addTar(api.PartDumpTar, dir, api.Engine{})
		return digest(b.parts...)
	}
	path := filepath.Join(dir, "toc.dat")
	if err := os.WriteFile(path, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree()
	if err := errors.Join(os.Chmod(path, 0o644), os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	if tree() != before {
		t.Error("times and modes count")
	}
	if err := os.WriteFile(path, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	if tree() == before {
		t.Error("content does not count")
	}
}
