package manager

import (
	"fmt"
	"maps"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Limits bound what clones take. The zero value bounds nothing.
type Limits struct {
	Clone api.Limits   // of a clone that is asked for with none
	Most  api.Limits   // that can be asked for, but by administrators
	User  quota.Bounds // of each user but administrators
	All   quota.Bounds // of all together
}

// What no server runs below.
const (
	minMemory = 32 << 20
	minCPUs   = 0.01
	minPids   = 16
)

// bounds checks what is asked for about limits and the end of life.
func (l *planner) bounds(p *plan) func(api.CloneRequest) error {
	return func(req api.CloneRequest) error {
		have, def, most := &p.limits, l.opts.Limits.Clone, l.opts.Limits.Most
		if p.caller.IsAdmin() {
			most = api.Limits{}
		}
		*have = req.Limits
		p.protect, p.idle = req.Protect, time.Duration(req.IdleTTL)
		for _, err := range []error{
			bound("memory", mebibytes, &have.MemoryBytes, minMemory, def.MemoryBytes, most.MemoryBytes),
			bound("cpus", number, &have.CPUs, minCPUs, def.CPUs, most.CPUs),
			bound("pids", number, &have.Pids, minPids, def.Pids, most.Pids),
			bound("disk", mebibytes, &have.DiskBytes, 0, def.DiskBytes, most.DiskBytes),
			bound("connections", number, &have.Connections, 0, def.Connections, most.Connections),
		} {
			if err != nil {
				return err
			}
		}
		return l.checkTTL(p.idle)
	}
}

// bound gives a limit its default, and holds it to the least that a server runs with and to
// the most that may be asked for; 0 is no bound.
func bound[N int | int64 | float64](what string, text func(N) string, have *N, least, def, most N) error {
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
			fmt.Errorf("limit of %s %s is above this server's maximum of %s: %w", what, text(*have), text(most), errdefs.ErrInvalidArgument),
			"ask for less, or have clone.max raised")
	}
	if *have > 0 && *have < least {
		return snapshot.WithHint(
			fmt.Errorf("limit of %s %s is too low for a server: %w", what, text(*have), errdefs.ErrInvalidArgument),
			"ask for "+text(least)+" at least")
	}
	return nil
}

func number[N int | int64 | float64](n N) string { return fmt.Sprint(n) }

// mebibytes prints bytes as people and flags write them.
func mebibytes(n int64) string {
	if n%(1<<20) != 0 {
		return fmt.Sprintf("%dB", n)
	}
	return fmt.Sprintf("%dMiB", n>>20)
}

// serverSettings are the settings that a server is started with: those that were asked
// for, and over them what limits it. The daemon's own limit does not hold a server that
// cannot have it.
func serverSettings(e runtime.Engine, settings map[string]string, l api.Limits) map[string]string {
	limit, err := connectionLimit(e, l.Connections)
	if err != nil || len(limit) == 0 {
		return settings
	}
	all := maps.Clone(settings)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, limit)
	return all
}

// connectionLimit returns the settings of a server that takes n connections, 0 is any number.
func connectionLimit(e runtime.Engine, n int) (map[string]string, error) {
	if n == 0 {
		return nil, nil
	}
	limiter, ok := e.(runtime.ConnectionLimiter)
	if !ok {
		return nil, fmt.Errorf("engine %s has no limit of connections: %w", e.Name(), errdefs.ErrInvalidArgument)
	}
	return limiter.LimitConnections(n)
}

// hostLimits are those that the kernel holds.
func hostLimits(l api.Limits) runtime.Limits {
	return runtime.Limits{Memory: l.MemoryBytes, CPUs: l.CPUs, Pids: l.Pids}
}
