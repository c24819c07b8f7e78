package golden

import (
	"context"
	"errors"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// undoTimeout bounds how long it takes to undo a change.
const undoTimeout = 30 * time.Second

// change is a sequence of steps that are undone, last first, if one fails.
type change struct {
	failpoint func(step string) error
	undo      undo.Stack
}

// step does one of them.
func (c *change) step(ctx context.Context, name string, do func(context.Context) error) error {
	if err := c.failpoint(name); err != nil {
		return err
	}
	return do(ctx)
}

// onFail adds what undoes the step before; nil is nothing.
func (c *change) onFail(back func(context.Context) error) {
	if back != nil {
		c.undo.Add("undo", back)
	}
}

// end undoes all if err is set, and returns err with what could not be undone.
func (c *change) end(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(err, c.undo.Run(ctx, undoTimeout))
}
