package manager

import (
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
)

// emit has the world know what a caller did to a clone that is handed out.
func (m *Manager) emit(by access.Caller, t api.EventType, c *clone, reason string) {
	if m.opts.Events == nil {
		return
	}
	m.mu.Lock()
	rec := c.rec
	m.mu.Unlock()
	m.opts.Events.Emit(event.Event{
		Event: api.Event{
			Type: t, Clone: c.id, Name: rec.Name, Golden: c.golden.Ref().String(), Owner: rec.Owner, By: by.Name, Reason: reason,
		},
		OwnerUID: rec.OwnerUID,
	})
}
