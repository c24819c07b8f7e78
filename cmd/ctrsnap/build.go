package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// maxHostOutput is how much of a host command's output goes into the
// error of a build that fails by it, in bytes.
const maxHostOutput = 4 << 10

// killDelay is how long a command gets to end after it was asked to.
const killDelay = 5 * time.Second

// golden returns the golden that b describes: the one with its key if there is
// one, else a new one. A hit sends no file.
func (a *app) golden(ctx context.Context, d *client.Client, b build, quiet bool) (api.Golden, error) {
	if b.req.Key != "" {
		g, found, err := lookUp(ctx, d, b.req)
		if err != nil {
			return api.Golden{}, err
		}
		if found {
			a.existed(g, quiet)
			return g, nil
		}
	}
	for _, path := range b.dead {
		a.hint("golden build %s: %s is left out: it leads nowhere", b.req.Name, path)
	}
	for _, path := range b.ignored {
		scripts, _ := b.scripts() // was asked for before
		a.hint("golden build %s: %s is no script, which others may read: its name ends in none of %s", b.req.Name, path, strings.Join(scripts, " "))
	}
	p := newProgress(a.stderr, quiet, a.getenv)
	defer p.end()
	g, existed, err := d.Build(ctx, b.req, b.parts, a.onEvent(ctx, d, p))
	if err != nil {
		return api.Golden{}, err
	}
	if existed { // somebody else has built it meanwhile
		p.end()
		a.existed(g, quiet)
	}
	return g, nil
}

func (a *app) existed(g api.Golden, quiet bool) {
	if !quiet {
		a.hint("golden %s has this key, nothing built", refOf(g))
	}
}

func refOf(g api.Golden) string { return fmt.Sprintf("%s:%d", g.Name, g.Version) }

// lookUp asks for a golden with the key of req.
func lookUp(ctx context.Context, d *client.Client, req api.BuildRequest) (g api.Golden, found bool, err error) {
	req.CheckOnly = true
	missed := false
	g, found, err = d.Build(ctx, req, nil, func(e api.BuildEvent) error {
		missed = e.Type == api.EventDone && !e.Existed
		return nil
	})
	var apiErr *api.Error
	if missed || errors.As(err, &apiErr) && apiErr.Code == api.CodeNotFound {
		return api.Golden{}, false, nil
	}
	return g, found, err
}

// onEvent shows events and runs the commands that the build asks for.
func (a *app) onEvent(ctx context.Context, d *client.Client, p *progress) func(api.BuildEvent) error {
	var id string
	return func(e api.BuildEvent) error {
		p.event(e)
		switch e.Type {
		case api.EventID:
			id = e.BuildID
		case api.EventExec:
			r, err := a.hostCommand(ctx, e.Exec, e.Env)
			if err != nil {
				return err
			}
			r.Token = e.Token
			return client.Tell(ctx, d, api.AnswerBuild, api.AnswerArgs{ID: id, Body: r})
		}
		return nil
	}
}

// hostCommand runs a command of --exec by sh in the current directory. Its output
// goes to stderr: stdout is for the golden's name. When ctx ends, the command
// and what it started are asked to end, then killed.
func (a *app) hostCommand(ctx context.Context, command string, env map[string]string) (api.HostResult, error) {
	last := &tail{max: maxHostOutput}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	var vars []variable
	for k, v := range env {
		vars = append(vars, variable{k, v})
	}
	cmd.Env = withVariables(a.environ(), vars, nil)
	cmd.Stdout = io.MultiWriter(a.stderr, last)
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	err := cmd.Run()
	if ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH: all have ended
		return api.HostResult{}, context.Cause(ctx)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return api.HostResult{ExitCode: 127, Output: err.Error()}, nil
	}
	return api.HostResult{ExitCode: waitCode(cmd.ProcessState), Output: last.String()}, nil
}

// waitCode returns the exit code as a shell gives it: 128+n for a signal.
func waitCode(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// tail keeps the last max bytes that were written, from the beginning of a line.
type tail struct {
	max int
	buf []byte
	cut bool
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.max; over > 0 {
		t.buf, t.cut = append([]byte(nil), t.buf[over:]...), true
	}
	return len(p), nil
}

func (t *tail) String() string {
	b := t.buf
	if _, rest, ok := bytes.Cut(b, []byte("\n")); t.cut && ok {
		b = rest
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")
}
