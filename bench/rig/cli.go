package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ExitError is a run of the command line that ended with an exit code other
// than 0.
type ExitError struct {
	Args   []string
	Code   int
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("ctrsnap %s: exit code %d: %s", strings.Join(e.Args, " "), e.Code, strings.TrimSpace(e.Stderr))
}

// Program returns the path of one of the programs under test.
func (r *Rig) Program(name string) string { return filepath.Join(r.bin, name) }

// Env is the environment in which the command line finds the daemon.
func (r *Rig) Env() []string {
	env := []string{"CTRSNAP_HOST=" + r.host, "PATH=" + r.bin + ":" + os.Getenv("PATH")}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "CTRSNAP_") && !strings.HasPrefix(kv, "PATH=") {
			env = append(env, kv)
		}
	}
	return env
}

// CLI runs the command line and returns what it printed, less the white space
// around it. An exit code other than 0 is an [*ExitError].
func (r *Rig) CLI(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, r.Program("ctrsnap"), args...)
	cmd.Env = r.Env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = &ExitError{args, exit.ExitCode(), stderr.String()}
	}
	return strings.TrimSpace(stdout.String()), err
}
