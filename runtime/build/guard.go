package build

import (
	"context"
	"fmt"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// roomInterval is how often a build looks whether there is room for it still.
const roomInterval = time.Second

// guard ends a build, with the reason as ctx's cause, when there is no room for goldens any
// more: a build that goes on would take the last of it from the clones. stop ends the build, too.
func (b *Builder) guard(ctx context.Context, end context.CancelCauseFunc) (stop func()) {
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
				end(err)
				return
			}
		}
	}()
	return func() { end(nil); <-done }
}

// End ends all builds under way, because of why, and returns how many there are.
func (b *Builder) End(why error) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.jobs {
		j.end(why)
	}
	return len(b.jobs)
}

// limitTime ends the build when it has been worked on for too long.
func (j *job) limitTime() {
	if j.Timeout <= 0 {
		return
	}
	timer := time.AfterFunc(j.Timeout, func() {
		j.end(snapshot.WithHint(fmt.Errorf("not finished within %s: %w", j.Timeout, context.DeadlineExceeded),
			"an administrator can raise build.timeout in the daemon's configuration"))
	})
	j.undo.Add("stop timer", func(context.Context) error { timer.Stop(); return nil })
}
