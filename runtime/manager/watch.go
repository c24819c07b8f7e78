package manager

import (
	"context"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// keeper shows the clones to a patrol, and does what it answers.
type keeper struct {
	store      snapshot.Store
	files      files
	registry   *registry
	quota      *quota.Book
	undertaker *undertaker
	refill     func() // has the pool look again
	events     *event.Hub
}

var _ patrol.Keeper = (*keeper)(nil)

// Targets implements [patrol.Keeper].
func (k *keeper) Targets() []patrol.Target {
	clones := k.registry.list(access.Daemon, nil)
	list := make([]patrol.Target, len(clones))
	for i, c := range clones {
		rec := c.record()
		ttl := time.Duration(rec.IdleTTL)
		list[i] = patrol.Target{
			ID: c.id, Log: k.files.log(c.id),
			Disk: rec.Limits.DiskBytes, IdleTTL: ttl, Warning: lease.Warning(ttl), Protected: rec.Protected,
		}
		if !c.isDead() {
			list[i].PID = c.task.PID()
		}
	}
	return list
}

// Memory implements [patrol.Keeper].
func (k *keeper) Memory(ctx context.Context, id string) (int64, error) {
	c, err := k.registry.find(access.Daemon, id)
	if err != nil {
		return 0, err
	}
	return c.task.Memory(ctx)
}

// Disk implements [patrol.Keeper].
func (k *keeper) Disk(ctx context.Context, id string) (int64, error) { return k.store.Usage(ctx, id) }

// Measured implements [patrol.Keeper].
func (k *keeper) Measured(id string, u patrol.Usage) { k.quota.Measured(id, u.Memory, u.Disk) }

// Halt implements [patrol.Keeper].
func (k *keeper) Halt(ctx context.Context, id, reason string) { k.undertaker.halt(ctx, id, reason) }

// Expiring implements [patrol.Keeper].
func (k *keeper) Expiring(id, why string) { k.undertaker.expiring(id, why) }

// Expire implements [patrol.Keeper].
func (k *keeper) Expire(id, why string) { k.undertaker.expire(id, why) }

// Full implements [patrol.Keeper].
func (k *keeper) Full(err error) {
	e := event.Event{Event: api.Event{Type: api.EventStorageOK}}
	if err != nil {
		e.Type, e.Reason = api.EventStorageLow, err.Error()
	} else {
		k.refill()
	}
	k.events.Emit(e)
}
