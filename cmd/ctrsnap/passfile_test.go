package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestPassFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, ".pgpass")
	if err := os.WriteFile(name, []byte("db:6000:sales:me:with\\:colon\n*:*:*:me:other\nlocalhost:5432:me:me:here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	home := func(key string) string { return map[string]string{"HOME": dir}[key] }
	for text, want := range map[string]string{
		"postgresql://me@db:6000/sales":                 "with:colon",
		"postgresql:///sales?host=db&port=6000&user=me": "with:colon",
		"jdbc:postgresql://db:6000/sales?user=me":       "with:colon",
		"postgresql://me@db/sales":                      "other",
		"postgresql://you@db/sales":                     "",
	} {
		u, err := api.ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := passFile(u, home); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if err := os.Chmod(name, 0o644); err != nil {
		t.Fatal(err)
	}
	u, _ := api.ParseURL("postgresql://me@db:6000/sales")
	if got := passFile(u, home); got != "" {
		t.Errorf("a file that others may read gives %q", got)
	}
}
