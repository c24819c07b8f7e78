package main_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReadme runs the tour of the README, as one shell session, and compares
// what it prints.
func TestReadme(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "")
	script, want := tour(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	sh := d.command(ctx)
	sh = &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-eu"}, Env: sh.Env, Dir: sh.Dir, Stdin: strings.NewReader(script)}
	if prefix := os.Getenv("CTRSNAP_TEST_POSTGRES"); prefix != "" {
		sh.Stdin = strings.NewReader(strings.ReplaceAll(script, "ctrsnap golden build", "ctrsnap golden build --from-host="+prefix))
	}
	var stderr strings.Builder
	sh.Stderr = &stderr
	out, err := sh.Output()
	if err != nil || string(out) != want {
		t.Errorf("%v: the tour prints\n%s\nnot\n%s\n%s", err, out, want, stderr.String())
	}
}

// tour returns the commands of the README's console blocks and what they print.
func tour(t *testing.T) (script, output string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(b)) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```console"
		case inside && isCommand:
			script += command
		case inside:
			output += line
		}
	}
	if script == "" {
		t.Fatal("the README has no tour")
	}
	return script, output
}
