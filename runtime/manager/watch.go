package manager

import (
	"context"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
)

// watched are the clones as a patrol looks at them.
type watched struct{ m *Manager }

var _ patrol.Keeper = watched{}

// Targets implements [patrol.Keeper].
func (w watched) Targets() []patrol.Target {
	clones := w.m.labelled(access.Daemon, nil)
	list := make([]patrol.Target, len(clones))
	for i, c := range clones {
		w.m.mu.Lock()
		rec := c.rec
		w.m.mu.Unlock()
		ttl := time.Duration(rec.IdleTTL)
		list[i] = patrol.Target{
			ID: c.id, Log: w.m.logPath(c.id),
			Disk: rec.Limits.DiskBytes, IdleTTL: ttl, Warning: lease.Warning(ttl), Protected: rec.Protected,
		}
		if !c.isDead() {
			list[i].PID = c.task.PID()
		}
	}
	return list
}

// Memory implements [patrol.Keeper].
func (w watched) Memory(ctx context.Context, id string) (int64, error) {
	c, err := w.m.find(access.Daemon, id)
	if err != nil {
		return 0, err
	}
	return c.task.Memory(ctx)
}

// Disk implements [patrol.Keeper].
func (w watched) Disk(ctx context.Context, id string) (int64, error) {
	return w.m.opts.Store.Usage(ctx, id)
}

// Measured implements [patrol.Keeper].
func (w watched) Measured(id string, u patrol.Usage) { w.m.quota.Measured(id, u.Memory, u.Disk) }

// Halt implements [patrol.Keeper].
func (w watched) Halt(ctx context.Context, id, reason string) {
	m := w.m
	c, err := m.find(access.Daemon, id)
	if err != nil {
		return // it went meanwhile
	}
	if err := m.update(ctx, c, func(r *record) { r.Reason = "stopped: " + reason }); err != nil {
		m.log.Warn("reason not recorded", "clone", c.id, "error", err)
	}
	m.log.Warn("clone stopped", "clone", c.id, "golden", c.golden.Ref().String(), "reason", reason)
	m.kill(ctx, c)
	m.emit(access.Daemon, api.EventCloneStopped, c, reason)
}

// Expiring implements [patrol.Keeper].
func (w watched) Expiring(id, why string) { w.m.expiring(id, why) }

// Expire implements [patrol.Keeper].
func (w watched) Expire(id, why string) { w.m.expire(id, why) }

// Full implements [patrol.Keeper].
func (w watched) Full(err error) {
	e := event.Event{Event: api.Event{Type: api.EventStorageOK}}
	if err != nil {
		e.Type, e.Reason = api.EventStorageLow, err.Error()
	} else {
		w.m.pool.Poke()
	}
	w.m.opts.Events.Emit(e)
}

// Room says why no clone and no golden is to be made now; nil if they may.
func (m *Manager) Room() error { return m.patrol.Room() }
