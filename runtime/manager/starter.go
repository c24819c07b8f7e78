package manager

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// Starter is how the server of a clone comes up, within a container whose root, network and directories are there. It
// is chosen for each golden, and knows nothing of clones beside it. Its steps are taken once, in their order.
type Starter interface {
	// Create makes the container, with its task, from which the server comes up. c says all about it but what runs.
	Create(ctx context.Context, c runtime.Container) (runtime.Task, error)
	// Start has the server come up.
	Start(ctx context.Context, task runtime.Task) error
	// Ready returns when the server answers whoever connects. It ends, with an error, when ctx does or died is closed.
	Ready(ctx context.Context, server runtime.Endpoint, died <-chan struct{}) error
}

// starterOf returns how the server of a plan's clone comes up: it boots, as no golden has anything else to come up
// from.
func starterOf(r runtime.Runner, want *plan) Starter { return boot{r, want} }

// boot starts the engine's server on the golden's database, as on any.
type boot struct {
	runner runtime.Runner
	want   *plan
}

// Create implements [Starter].
func (b boot) Create(ctx context.Context, c runtime.Container) (runtime.Task, error) {
	c.Process = b.want.process
	return b.runner.Create(ctx, c)
}

// Start implements [Starter].
func (boot) Start(ctx context.Context, task runtime.Task) error { return task.Start(ctx) }

// Ready implements [Starter]. A member of the pool, and a server with settings that nobody has tried, has answered a
// query then. A golden's databases have been connected to with its own settings: a connection more would double what
// the caller's own costs.
func (b boot) Ready(ctx context.Context, server runtime.Endpoint, died <-chan struct{}) error {
	err := b.want.engine.Ready(ctx, b.want.golden, server, died)
	if err == nil && (b.want.member || len(b.want.settings) > 0) {
		err = b.want.engine.Query(ctx, b.want.golden, server)
	}
	return err
}
