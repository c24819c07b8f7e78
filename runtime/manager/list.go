package manager

import (
	"cmp"
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Get returns a clone with what it uses now, and what its server is set to.
func (m *Manager) Get(ctx context.Context, caller access.Caller, id string) (api.Clone, error) {
	c, err := m.registry.find(caller, id)
	if err != nil {
		return api.Clone{}, err
	}
	seen := m.measure(ctx, c)
	seen.Durability = api.DurabilityOff // its layer is volatile, whatever its server does
	if e, ok := c.engine.(runtime.Settler); ok {
		settings, err := e.Settings(c.golden, seen.Settings)
		if err != nil {
			return api.Clone{}, fmt.Errorf("find settings of clone %s: %w", c.id, err)
		}
		for _, s := range settings {
			seen.ServerSettings = append(seen.ServerSettings, api.ServerSetting(s))
		}
	}
	return seen, nil
}

// List returns the clones that have all the labels, oldest first, of those that the caller may know of.
func (m *Manager) List(ctx context.Context, caller access.Caller, labels map[string]string) ([]api.Clone, error) {
	list := m.measureAll(ctx, m.registry.list(caller, labels))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list clones: %w", err)
	}
	return list, nil
}

// measureAll measures clones side by side, and returns them oldest first.
func (m *Manager) measureAll(ctx context.Context, clones []*clone) []api.Clone {
	list := make([]api.Clone, len(clones))
	var g errgroup.Group
	g.SetLimit(goruntime.NumCPU())
	for i, c := range clones {
		g.Go(func() error {
			list[i] = m.measure(ctx, c)
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	slices.SortFunc(list, func(a, b api.Clone) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// describe returns what is known of a clone without asking anybody.
func (m *Manager) describe(c *clone) api.Clone {
	rec := c.record()
	seen := rec.wire()
	if seen.DNSNames = rec.namesIn(m.opts.Zone); len(seen.DNSNames) > 0 {
		seen.DNSName = seen.DNSNames[0]
	}
	if c.isDead() {
		seen.State, seen.PID = api.StateDead, 0
	}
	return seen
}

// measure adds disk and memory. A figure that cannot be had (the clone is going just now) is 0.
func (m *Manager) measure(ctx context.Context, c *clone) api.Clone {
	seen := m.describe(c)
	if n, err := m.opts.Store.Usage(ctx, c.id); err == nil {
		seen.DiskBytes = n
	}
	if seen.State == api.StateRunning {
		if n, err := c.task.Memory(ctx); err == nil {
			seen.MemoryBytes = n
		}
	}
	return seen
}

// Made is a clone that was made, or not, for who watches the Manager at work.
type Made struct {
	Golden  snapshot.Ref
	Member  bool // of the pool: nobody waited for it
	Began   time.Time
	Timings api.Timings
	Err     error
}

// Load is what the Manager has to do just now.
type Load struct {
	Active, Waiting int // clones that are made, and requests that wait for their turn
	Admissions      int // requests that wait for room in a quota
	Teardowns       int // clones that are gone for their users, and not yet for the host
}

// Load returns what there is to do.
func (m *Manager) Load() Load {
	in, waiting := m.queue.Busy("")
	return Load{Active: in, Waiting: waiting, Admissions: m.quota.Waiting(), Teardowns: m.removals.Pending()}
}

// LastMeasured returns all clones with what they used when it was last measured: nothing is measured for it.
func (m *Manager) LastMeasured() []api.Clone {
	clones := m.registry.list(access.Daemon, nil)
	list := make([]api.Clone, len(clones))
	for i, c := range clones {
		list[i] = m.describe(c)
		used := m.patrol.Used(c.id)
		list[i].DiskBytes, list[i].MemoryBytes = used.Disk, used.Memory
	}
	return list
}

// Stats returns what the clones that the caller may know of use now.
func (m *Manager) Stats(ctx context.Context, caller access.Caller) (api.Stats, error) {
	if err := caller.CheckKnown("show statistics"); err != nil {
		return api.Stats{}, err
	}
	s := api.Stats{Schema: api.Schema, Clones: m.measureAll(ctx, m.registry.list(caller, nil))}
	load := m.Load()
	s.Queue = load.Waiting + load.Admissions
	for _, p := range m.warm.members.Stats() {
		s.Pool += p.Ready
	}
	if m.opts.Space != nil {
		space, err := m.opts.Space()
		if err != nil {
			return s, err
		}
		s.Storage = api.StorageStats{SizeBytes: space.Size, FreeBytes: space.Free, ReserveBytes: space.Reserve, Low: m.Room() != nil}
	}
	return s, nil
}
