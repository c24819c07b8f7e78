package enginetest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Daemon is the daemon under test.
type Daemon struct {
	Dir string // for files of the test
	// Command returns the command line with arguments.
	Command func(ctx context.Context, args ...string) *exec.Cmd
}

// Run runs the command line, which must succeed, and returns what it prints.
func (d Daemon) Run(t *testing.T, args ...string) string {
	t.Helper()
	out, stderr, code := d.Try(t, args...)
	if code != 0 {
		t.Fatalf("ctrsnap %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, stderr)
	}
	return out
}

// Try runs the command line.
func (d Daemon) Try(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := d.Command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String()), errs.String(), cmd.ProcessState.ExitCode()
}

// File writes a file of the test and returns its path.
func (d Daemon) File(t *testing.T, name, text string) string {
	t.Helper()
	path := d.Dir + "/" + name
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Clone makes a clone.
func (d Daemon) Clone(t *testing.T, args ...string) api.Clone {
	t.Helper()
	var c api.Clone
	if err := json.Unmarshal([]byte(d.Run(t, append([]string{"clone", "-o", "json"}, args...)...)), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// decode reads what clone -o json prints: one clone, or a list.
func decode(t *testing.T, text string) []api.Clone {
	t.Helper()
	var list api.CloneResponse
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Clones) > 0 {
		return list.Clones
	}
	var one api.Clone
	if err := json.Unmarshal([]byte(text), &one); err != nil || one.ID == "" {
		t.Fatalf("no clones in %.200s: %v", text, err)
	}
	return []api.Clone{one}
}
