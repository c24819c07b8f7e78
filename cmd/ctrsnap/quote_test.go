package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// evalByShell prints v as -o format does and returns what a shell makes of it.
func evalByShell(t *testing.T, format, v string) string {
	t.Helper()
	dir := t.TempDir()
	var b strings.Builder
	if err := printVariables(&b, format, []variable{{"V", v}}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "env")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", `eval "$(cat env; echo .)" 2>/dev/null; eval "$(cat env)"; printf '%s.' "$V"`)
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sh: %v: %s", err, b.String())
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Fatalf("the shell executed something of %q", v)
	}
	return strings.TrimSuffix(string(out), ".")
}

func FuzzShellQuote(f *testing.F) {
	for _, s := range []string{"", "a", hostilePassword, "'", "''\\''", "a\nb\n", "$(touch x)", "-n", "\r\t\x7f", "é😀", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			t.Skip("no variable holds a zero byte")
		}
		if got := evalByShell(t, "env", s); got != s {
			t.Errorf("the shell reads %q, want %q", got, s)
		}
	})
}

// TestDotenvQuote: docker takes a line as it is, so plain values stay plain; the rest is what
// a shell would read too, where it can (a quote cannot be in single quotes).
func TestDotenvQuote(t *testing.T) {
	for in, want := range map[string]string{
		"":                                "",
		"postgres://u:p@h:1/d?a=b&c=d%20": "postgres://u:p@h:1/d?a=b&c=d%20",
		"a b":                             "'a b'",
		"#x $HOME":                        "'#x $HOME'",
		`it's "$1"`:                       `"it's \"\$1\""`,
		"a\nb":                            `"a\nb"`,
	} {
		if got := dotenvQuote(in); got != want {
			t.Errorf("dotenvQuote(%q) = %s, want %s", in, got, want)
		}
	}
}

// FuzzGitHubEntry: whatever the value is, the file has one entry with it.
func FuzzGitHubEntry(f *testing.F) {
	f.Add("a")
	f.Add("x\nctrsnap_\nB<<y\n")
	f.Fuzz(func(t *testing.T, v string) {
		entry := githubEntry("A", v)
		head, rest, _ := strings.Cut(entry, "\n")
		delimiter, ok := strings.CutPrefix(head, "A<<")
		if !ok {
			t.Fatalf("entry begins %q", head)
		}
		got, after, ok := strings.Cut(rest, "\n"+delimiter+"\n")
		if !ok || got != v || after != "" {
			t.Errorf("value %q, rest %q, want %q", got, after, v)
		}
		if githubEntry("A", v) == entry {
			t.Error("the delimiter can be guessed")
		}
	})
}

func TestMaskCoversURLForm(t *testing.T) {
	got := secrets([]api.Clone{{Password: "a/b", URL: "postgres://u:a%2Fb@h/d"}, {Password: "a/b"}, {}})
	if strings.Join(got, " ") != "a%2Fb a/b" {
		t.Errorf("secrets: %q", got)
	}
	if got := githubMask("a%\r\nb"); got != "::add-mask::a%25%0D%0Ab" {
		t.Errorf("mask: %q", got)
	}
}
