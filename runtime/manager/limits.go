package manager

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Limits bound what clones take. The zero value bounds nothing.
type Limits struct {
	Clone api.Limits // of a clone that is asked for with none
	Most  api.Limits // that can be asked for, but by administrators
	User  Quota      // of each user but administrators
	All   Quota      // of all together
}

// Quota bounds clones together; 0 is no bound. A clone counts with its limit of
// memory, or else what it uses, and with the disk that it uses.
type Quota struct {
	Clones int
	Memory int64 // bytes
	Disk   int64 // bytes
}

// minMemory is what no server runs below.
const minMemory = 32 << 20

// bounds checks what is asked for about limits and the end of life.
func (m *Manager) bounds(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		l, def, most := &p.limits, m.opts.Limits.Clone, m.opts.Limits.Most
		if p.caller.May(0) {
			most = api.Limits{}
		}
		*l = req.Limits
		p.protect, p.idle = req.Protect, time.Duration(req.IdleTTL)
		for _, err := range []error{
			bound("memory", &l.MemoryBytes, def.MemoryBytes, most.MemoryBytes),
			bound("cpus", &l.CPUs, def.CPUs, most.CPUs),
			bound("pids", &l.Pids, def.Pids, most.Pids),
			bound("disk", &l.DiskBytes, def.DiskBytes, most.DiskBytes),
			bound("connections", &l.Connections, def.Connections, most.Connections),
		} {
			if err != nil {
				return err
			}
		}
		if l.MemoryBytes > 0 && l.MemoryBytes < minMemory || l.CPUs > 0 && l.CPUs < 0.01 || l.Pids > 0 && l.Pids < 16 {
			return fmt.Errorf("limits %+v are too low for a server: want 32 MiB, 0.01 CPUs and 16 processes at least: %w", *l, errdefs.ErrInvalidArgument)
		}
		return m.checkTTL(p.idle)
	}
}

// bound gives a limit its default and holds it to the most.
func bound[N int | int64 | float64](what string, have *N, def, most N) error {
	if *have < 0 {
		return fmt.Errorf("negative limit of %s: %w", what, errdefs.ErrInvalidArgument)
	}
	if *have == 0 {
		*have = def
		if most > 0 && (def == 0 || def > most) {
			*have = most
		}
	}
	if most > 0 && *have > most {
		return snapshot.WithHint(
			fmt.Errorf("limit of %s %v is above this server's maximum of %v: %w", what, *have, most, errdefs.ErrInvalidArgument),
			"ask for less, or have clone.max raised")
	}
	return nil
}

// serverSettings are the settings that a server is started with: those that were asked
// for, and over them what limits it.
func serverSettings(e runtime.Engine, settings map[string]string, l api.Limits) map[string]string {
	limiter, ok := e.(runtime.ConnectionLimiter)
	if !ok || l.Connections == 0 {
		return settings
	}
	all := maps.Clone(settings)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, limiter.LimitConnections(l.Connections))
	return all
}

// hostLimits are those that the kernel holds.
func hostLimits(l api.Limits) runtime.Limits {
	return runtime.Limits{Memory: l.MemoryBytes, CPUs: l.CPUs, Pids: l.Pids}
}

// setLimits gives a member the limits that its caller wants, if others than it has.
func (m *Manager) setLimits(ctx context.Context, c *clone, want *plan) error {
	have, l := hostLimits(c.rec.Limits), hostLimits(want.limits)
	if have == l {
		return nil
	}
	limiter, ok := m.opts.Runner.(runtime.Limiter)
	if !ok {
		return fmt.Errorf("limit clone: %w", errdefs.ErrNotImplemented)
	}
	return limiter.SetLimits(ctx, c.id, l)
}
