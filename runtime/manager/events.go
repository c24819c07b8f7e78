package manager

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
	"github.com/ctrsnap/ctrsnap/runtime/event"
)

// emit has the world know what happened to a clone that is handed out.
func (m *Manager) emit(ctx context.Context, t api.EventType, c *clone, reason string) {
	if m.opts.Events == nil {
		return
	}
	m.mu.Lock()
	rec := c.rec
	m.mu.Unlock()
	who, _ := server.CallerOf(ctx)
	m.opts.Events.Emit(event.Event{
		Event: api.Event{
			Type: t, Clone: c.id, Name: rec.Name, Golden: c.golden.Ref().String(), Owner: rec.Owner, By: who.Name, Reason: reason,
		},
		OwnerUID: rec.OwnerUID,
	})
}
