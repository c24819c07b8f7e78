package manager

import (
	"context"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

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

// LastMeasured returns all clones with what they used when it was last measured: nothing is
// measured for it.
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
