package containerd

import (
	"context"
	"fmt"
	"path"

	"github.com/ctrsnap/ctrsnap/runtime"
)

var _ runtime.Limiter = (*Runner)(nil)

// SetLimits changes the limits of a container that runs, in its cgroup: no shim is asked.
func (r *Runner) SetLimits(_ context.Context, id string, l runtime.Limits) error {
	host, err := r.host()
	if err == nil {
		err = host.Group(path.Join(r.opts.CgroupPath, id)).SetLimits(l.Memory, l.CPUs, l.Pids)
	}
	if err != nil {
		return fmt.Errorf("set limits of container %s: %w", id, err)
	}
	return nil
}
