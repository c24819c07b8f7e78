package manager

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// clone is a clone that this process watches over.
type clone struct {
	id     string // of rec, which does not change there
	golden snapshot.Golden
	engine runtime.Engine
	task   runtime.Task

	proc    *os.File                // of a member: tells at once that its server has ended; nil if unknown
	session runtime.PasswordSession // of a member that is ready for a password of its own, or nil
	died    chan struct{}           // closed when the server has ended; exit is valid then
	exit    runtime.Exit
	gone    chan struct{} // closed when the clone is removed

	saving sync.Mutex // held while the record is written; taken before Manager.mu
	rec    record     // guarded by Manager.mu once the clone is handed out
}

func (c *clone) isDead() bool {
	select {
	case <-c.died:
		return true
	default:
		return false
	}
}

// endpoint says where the server listens.
func (m *Manager) endpoint(id string, addr netip.Addr, pid int) runtime.Endpoint {
	return runtime.Endpoint{SocketDir: m.dirs.Sockets(id), Addr: addr, PID: pid}
}

// live is the endpoint of a clone whose server runs.
func (m *Manager) live(c *clone) runtime.Endpoint {
	ep := m.endpoint(c.id, c.rec.Addr, c.rec.PID)
	ep.Exec = func(ctx context.Context, p runtime.Process) (int, error) {
		return c.task.Exec(ctx, p, runtime.Stdio{}, nil)
	}
	return ep
}

func (m *Manager) logPath(id string) string { return filepath.Join(m.opts.LogDir, id+".log") }

// update changes the record of a clone, first where it is kept.
func (m *Manager) update(ctx context.Context, c *clone, change func(*record)) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	m.mu.Lock()
	rec := c.rec
	m.mu.Unlock()
	change(&rec)
	b, err := rec.encode()
	if err != nil {
		return err
	}
	if err := m.opts.Runner.SetRecord(ctx, c.id, b); err != nil {
		return fmt.Errorf("record clone %s: %w", c.id, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	c.rec = rec
	if !m.leases.Extend(c.id, rec.life()) && m.clones[c.id] == c {
		return fmt.Errorf("clone %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	return nil
}

// watch closes c.died when the server has ended. A wait that goes wrong (a
// containerd of the host that restarts) is not the end of the server: it is
// asked for again.
func (m *Manager) watch(c *clone, exits <-chan runtime.Exit) {
	for {
		var exit runtime.Exit
		select {
		case exit = <-exits:
		case <-m.ctx.Done():
			return
		}
		if exit.Err != nil {
			var dead bool
			if exits, dead = m.rewait(c); exits != nil {
				continue
			}
			if !dead {
				return
			}
		}
		m.mu.Lock()
		c.exit = exit
		m.mu.Unlock()
		close(c.died)
		m.pool.Poke() // it may be a member
		m.noteDeath(c, exit)
		return
	}
}

// noteDeath tells of a server that has ended by itself.
func (m *Manager) noteDeath(c *clone, exit runtime.Exit) {
	m.mu.Lock()
	mine := m.clones[c.id] == c && c.rec.Reason == ""
	if mine {
		c.rec.Reason = fmt.Sprintf("its server has ended by itself, exit code %d", exit.Code)
	}
	m.mu.Unlock()
	if mine {
		m.emit(access.Daemon, api.EventCloneDied, c, fmt.Sprintf("exit code %d", exit.Code))
	}
}

// rewait returns a new channel to wait on, or dead if the server has ended, or
// neither if the Manager was closed meanwhile.
func (m *Manager) rewait(c *clone) (exits <-chan runtime.Exit, dead bool) {
	for m.ctx.Err() == nil {
		task, err := m.opts.Runner.Load(m.ctx, c.id)
		if err == nil {
			exits, err = task.Wait(m.ctx)
		}
		if err == nil {
			return exits, false
		}
		if errdefs.IsNotFound(err) {
			return nil, true
		}
		select {
		case <-time.After(time.Second):
		case <-m.ctx.Done():
		}
	}
	return nil, false
}
