package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/client"
)

// Renew makes the daemon fit for the next scenario after one that failed, whatever that
// has left: it runs again, with the configuration under test, and has neither
// clones nor pools. What others have in a daemon that is not the run's own stays.
func (e *Env) Renew(ctx context.Context) error {
	if !e.Rig.Own() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := e.restart(ctx, e.Daemon); err != nil {
		return fmt.Errorf("restart the daemon: %w", err)
	}
	var err error
	for _, name := range e.goldenNames() {
		err = errors.Join(err, e.setPoolIfAny(ctx, name, 0))
	}
	clones, lerr := client.Do(ctx, e.Rig.Client(), api.ListClones, api.ListClonesArgs{})
	err = errors.Join(err, lerr)
	for _, c := range clones {
		err = errors.Join(err, client.Tell(ctx, e.Rig.Client(), api.RemoveClone, api.RemoveArgs{ID: c.ID}))
	}
	return errors.Join(err, e.drained(ctx, 0))
}
