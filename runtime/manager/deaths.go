package manager

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// deaths waits for the ends of servers. Close it.
type deaths struct {
	load   func(ctx context.Context, id string) (runtime.Task, error)
	told   func(*clone) // of one whose died is closed
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newDeaths(load func(ctx context.Context, id string) (runtime.Task, error), told func(*clone)) *deaths {
	d := &deaths{load: load, told: told}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// close waits for no server any more. It is idempotent.
func (d *deaths) close() {
	d.cancel()
	d.wg.Wait()
}

// watch closes c.died, in the background, when the server of c has ended. Call it before that is started.
func (d *deaths) watch(c *clone) error {
	exits, err := c.task.Wait(d.ctx)
	if err != nil {
		return fmt.Errorf("wait for server: %w", err)
	}
	d.wg.Go(func() { d.await(c, exits) })
	return nil
}

// await waits. A wait that goes wrong (a containerd of the host that restarts) is not the end of the server: it is
// asked for again.
func (d *deaths) await(c *clone, exits <-chan runtime.Exit) {
	for {
		select {
		case c.exit = <-exits:
		case <-d.ctx.Done():
			return
		}
		if c.exit.Err != nil {
			exits = d.again(c)
			if exits != nil {
				continue
			}
			if d.ctx.Err() != nil {
				return
			}
		}
		close(c.died)
		d.told(c)
		return
	}
}

// again returns a new channel to wait on, or nil if the server has ended or nobody waits any more.
func (d *deaths) again(c *clone) <-chan runtime.Exit {
	for d.ctx.Err() == nil {
		task, err := d.load(d.ctx, c.id)
		var exits <-chan runtime.Exit
		if err == nil {
			exits, err = task.Wait(d.ctx)
		}
		if err == nil {
			return exits
		}
		if errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-time.After(time.Second):
		case <-d.ctx.Done():
		}
	}
	return nil
}
