package manager

import (
	"cmp"
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	// restartTimeout bounds the shutdown of a server that is to start again, which writes what it has in memory.
	restartTimeout = 2 * time.Minute
	// retryInterval is how often a server that has just started is asked.
	retryInterval = 5 * time.Millisecond
)

// Restart has the server of a clone end in order and start again, with its data, addresses and password, and returns
// when it answers.
func (m *Manager) Restart(ctx context.Context, caller access.Caller, id string) (api.Clone, error) {
	c, err := m.registry.running(caller, id)
	if err != nil {
		return api.Clone{}, err
	}
	if !c.restarting.TryLock() {
		return api.Clone{}, fmt.Errorf("restart clone %s: somebody else does: %w", c.id, errdefs.ErrConflict)
	}
	defer c.restarting.Unlock()
	if err := m.restart(ctx, c); err != nil {
		return api.Clone{}, fmt.Errorf("restart clone %s: %w", c.id, err)
	}
	emit(m.opts.Events, caller, api.EventCloneRestart, c, "")
	return m.Get(ctx, caller, c.id)
}

func (m *Manager) restart(ctx context.Context, c *clone) error {
	process, err := c.engine.Server(c.golden, nil)
	if err != nil {
		return err
	}
	task, ok := c.task.(runtime.Restarter)
	if !ok {
		return fmt.Errorf("its container cannot: %w", errdefs.ErrNotImplemented)
	}
	ctx, cancel := context.WithTimeout(ctx, restartTimeout+m.opts.StartTimeout)
	defer cancel()
	if err := task.Restart(ctx, cmp.Or(process.Stop, syscall.SIGTERM)); err != nil {
		if errdefs.IsFailedPrecondition(err) {
			err = snapshot.WithHint(err, "'ctrsnap clone --name … --if-exists reset' begins with the golden's data again")
		}
		return err
	}
	ep := c.live()
	ep.Password, ep.Again = c.ownPassword(), true
	if err := c.engine.Ready(ctx, c.golden, ep, c.died); err != nil {
		return err
	}
	for {
		err := c.engine.Query(ctx, c.golden, ep)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(retryInterval):
		case <-c.died:
			return fmt.Errorf("the server has ended: %w", errdefs.ErrUnavailable)
		case <-ctx.Done():
			return err
		}
	}
}
