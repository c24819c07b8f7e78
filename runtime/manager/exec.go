package manager

import (
	"context"
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Exec runs a command in a clone, as the server's user unless the request names another, in the environment of the
// engine's client: psql without arguments is connected to the clone's database.
func (m *Manager) Exec(ctx context.Context, caller access.Caller, id string, req api.ExecRequest, stdio runtime.Stdio, size <-chan runtime.WindowSize) (int, error) {
	c, err := m.registry.running(caller, id)
	if err != nil {
		return 0, err
	}
	rec := c.record()
	if err := caller.CheckIsolated("run a command in clone "+c.id, rec.without()); err != nil {
		return 0, err
	}
	p, err := c.execProcess(req, c.ownPassword())
	if err != nil {
		return 0, err
	}
	end, err := m.execs.begin(caller, c.id)
	if err != nil {
		return 0, err
	}
	defer end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	code, err := c.task.Exec(ctx, p, stdio, withFirst(ctx, req, size))
	if err != nil {
		return 0, fmt.Errorf("run %s in clone %s: %w", req.Args[0], c.id, err)
	}
	return code, nil
}

// How many commands may run at a time: each is a process, and some descriptors of the shim and of the daemon.
const (
	execsOfClone = 64
	execsOfUser  = 256 // but of administrators
)

// execs counts the commands that run in clones.
type execs struct {
	mu      sync.Mutex
	byClone map[string]int
	byUser  map[int]int
}

// begin counts one more, until end is called.
func (e *execs) begin(caller access.Caller, id string) (end func(), err error) {
	uid := caller.UID()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byClone == nil {
		e.byClone, e.byUser = map[string]int{}, map[int]int{}
	}
	switch {
	case e.byClone[id] >= execsOfClone:
		err = fmt.Errorf("clone %s has %d commands running, which is all there may be: %w", id, execsOfClone, errdefs.ErrResourceExhausted)
	case e.byUser[uid] >= execsOfUser && !caller.IsAdmin():
		err = fmt.Errorf("you have %d commands running in clones, which is all there may be: %w", execsOfUser, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return nil, snapshot.WithHint(err, "wait for some to end")
	}
	e.byClone[id]++
	e.byUser[uid]++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		lower(e.byClone, id)
		lower(e.byUser, uid)
	}, nil
}

// lower takes one from a count, and forgets it at 0.
func lower[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
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

// mergeEnv returns env with more put over it. A variable must not be there twice: which one counts is up to each
// program.
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
	c, err := m.registry.running(caller, id)
	if err != nil {
		return api.ClientRequest{}, err
	}
	p, err := c.engine.Client(c.golden, c.ownPassword(), args)
	if err != nil {
		return api.ClientRequest{}, fmt.Errorf("find client of clone %s: %w", c.id, err)
	}
	return api.ClientRequest{Args: p.Args, Env: p.Env}, nil
}
