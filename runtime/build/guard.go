package build

import (
	"context"
	"time"
)

// roomInterval is how often a build looks whether there is room for it still.
const roomInterval = time.Second

// guard ends a build, with the reason as ctx's cause, when there is no room for goldens any
// more: a build that goes on would take the last of it from the clones.
func (b *Builder) guard(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(roomInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := b.Room(); err != nil {
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil); <-done }
}
