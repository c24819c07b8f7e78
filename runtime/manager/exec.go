package manager

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Exec runs a command in a clone, as the server's user unless the request names
// another, in the environment of the engine's client: psql without arguments is
// connected to the clone's database.
func (m *Manager) Exec(ctx context.Context, caller access.Caller, id string, req api.ExecRequest, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error) {
	c, err := m.running(caller, id)
	if err != nil {
		return 0, err
	}
	if err := m.checkIsolated(caller, c); err != nil {
		return 0, err
	}
	p, err := c.execProcess(req, m.ownPassword(c))
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := c.task.Exec(ctx, p, stdio, withFirst(ctx, req, size))
	if err != nil {
		return 0, fmt.Errorf("run %s in clone %s: %w", req.Args[0], c.id, err)
	}
	return code, nil
}

// running returns a clone of the caller's whose server runs.
func (m *Manager) running(caller access.Caller, id string) (*clone, error) {
	c, err := m.find(caller, id)
	if err != nil {
		return nil, err
	}
	if c.isDead() {
		return nil, fmt.Errorf("the server of clone %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

func (c *clone) execProcess(req api.ExecRequest, password string) (runtime.Process, error) {
	if len(req.Args) == 0 || req.Args[0] == "" {
		return runtime.Process{}, fmt.Errorf("no command to run: %w", errdefs.ErrInvalidArgument)
	}
	if req.Cwd != "" && !path.IsAbs(req.Cwd) {
		return runtime.Process{}, fmt.Errorf("working directory %q is not absolute: %w", req.Cwd, errdefs.ErrInvalidArgument)
	}
	p, err := c.engine.Client(c.golden, password, nil)
	if err != nil {
		return runtime.Process{}, fmt.Errorf("set up process in clone %s: %w", c.id, err)
	}
	if req.User != "" {
		p.UID, p.GID, err = lookupUser(c.task.PID(), req.User)
		if err != nil {
			return runtime.Process{}, err
		}
	}
	env := p.Env
	if req.Terminal {
		env = mergeEnv(env, []string{"TERM=xterm"})
	}
	return runtime.Process{
		Args: req.Args, Env: mergeEnv(env, req.Env), Cwd: req.Cwd,
		UID: p.UID, GID: p.GID, Terminal: req.Terminal,
	}, nil
}

// mergeEnv returns env with more put over it. A variable must not be there
// twice: which one counts is up to each program.
func mergeEnv(env, more []string) []string {
	over := make(map[string]bool, len(more))
	for _, kv := range more {
		key, _, _ := strings.Cut(kv, "=")
		over[key] = true
	}
	var merged []string
	for _, kv := range env {
		if key, _, _ := strings.Cut(kv, "="); !over[key] {
			merged = append(merged, kv)
		}
	}
	return append(merged, more...)
}

// withFirst returns the sizes of a terminal, the first one from the request.
func withFirst(ctx context.Context, req api.ExecRequest, size <-chan runtime.WindowSize) <-chan runtime.WindowSize {
	if !req.Terminal || req.Rows == 0 || req.Cols == 0 {
		return size
	}
	sizes := make(chan runtime.WindowSize, 1)
	sizes <- runtime.WindowSize{Rows: req.Rows, Cols: req.Cols}
	go func() {
		defer close(sizes)
		for {
			select {
			case s, ok := <-size: // never, if nil
				if !ok {
					return
				}
				select {
				case sizes <- s:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return sizes
}

// Client returns the engine's interactive client.
func (m *Manager) Client(_ context.Context, caller access.Caller, id string, args []string) (api.ClientRequest, error) {
	c, err := m.running(caller, id)
	if err != nil {
		return api.ClientRequest{}, err
	}
	p, err := c.engine.Client(c.golden, m.ownPassword(c), args)
	if err != nil {
		return api.ClientRequest{}, fmt.Errorf("find client of clone %s: %w", c.id, err)
	}
	return api.ClientRequest{Args: p.Args, Env: p.Env}, nil
}
