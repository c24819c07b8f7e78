package containerd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/launch"
)

var _ runtime.Restarter = (*task)(nil)

// restartInterval is how often a container is looked at whose server is to start again.
const restartInterval = 5 * time.Millisecond

// Restart implements [runtime.Restarter]. What a first process of ours has started is its child.
func (t *task) Restart(ctx context.Context, sig syscall.Signal) error {
	if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", t.PID())); strings.TrimSpace(string(name)) != launch.InitName {
		return fmt.Errorf("container %s was not made for it: %w", t.ID(), errdefs.ErrFailedPrecondition)
	}
	before, err := t.children()
	if err != nil {
		return err
	}
	if err := t.Signal(ctx, sig); err != nil {
		return err
	}
	tick := time.NewTicker(restartInterval)
	defer tick.Stop()
	for {
		now, err := t.children()
		if err != nil {
			return err
		}
		for _, pid := range now {
			if !slices.Contains(before, pid) {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the server of container %s does not end: %w", t.ID(), ctx.Err())
		}
	}
}

// children are the numbers of the first process's. See proc_pid_children(5).
func (t *task) children() ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", t.PID()))
	if err != nil {
		return nil, fmt.Errorf("container %s has ended: %w: %w", t.ID(), err, errdefs.ErrUnavailable)
	}
	return strings.Fields(string(text)), nil
}
