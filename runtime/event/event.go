// Package event keeps what has happened lately, for those who want to know.
//
// Nobody who emits waits for anybody who follows: whoever is slower than events come
// misses the oldest.
package event

import (
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// kept is how many events are kept.
const kept = 4096

// Event is an event with whose it is.
type Event struct {
	api.Event
	OwnerUID int              // of the clone
	Access   *snapshot.Access // of the golden, where it is about none of its clones
}

// VisibleTo says whether a caller may know of what the event is about.
func (e Event) VisibleTo(c access.Caller) bool {
	switch {
	case e.Clone != "":
		return c.May(e.OwnerUID)
	case e.Access != nil:
		return c.MaySee(*e.Access)
	}
	return c.Known()
}

// Hub takes events and hands them on. A nil Hub drops them. It is safe for concurrent
// use.
type Hub struct {
	mu      sync.Mutex
	last    uint64
	events  []Event       // oldest first, at most kept
	changed chan struct{} // closed at the next event
}

// New returns a Hub without events.
func New() *Hub { return &Hub{changed: make(chan struct{})} }

// Emit gives an event its number and time. It does not block.
func (h *Hub) Emit(e Event) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	e.Schema, e.ID = api.Schema, h.last
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	if len(h.events) >= 2*kept {
		h.events = append([]Event(nil), h.events[kept:]...)
	}
	h.events = append(h.events, e)
	close(h.changed)
	h.changed = make(chan struct{})
}

// Since returns the events after the one with a number, oldest first, and what is
// closed when there are more. The list is not to be changed.
func (h *Hub) Since(id uint64) (list []Event, more <-chan struct{}) {
	if h == nil {
		return nil, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := uint64(len(h.events))
	first := h.last - n + 1
	switch {
	case id >= h.last:
		return nil, h.changed
	case id >= first:
		return h.events[id-first+1 : n : n], h.changed
	}
	return h.events[:n:n], h.changed
}

// Last returns the number of the latest event.
func (h *Hub) Last() uint64 {
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
