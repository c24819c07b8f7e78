package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// poke tells expire that a deadline has changed.
func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default: // it is awake already
	}
}

// expire removes clones when their time has come: one goroutine, one timer.
func (m *Manager) expire() {
	for {
		due, warn, next := m.due(time.Now())
		for _, c := range due {
			m.endExpired(c, c.whyDue())
		}
		for _, c := range warn {
			m.emit(access.Daemon, api.EventCloneExpiring, c, "it ends at "+c.endsAt(m).UTC().Format(time.RFC3339))
		}
		var timer <-chan time.Time
		if !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-timer:
		case <-m.wake:
		case <-m.ctx.Done():
			return
		}
	}
}

// expireClone ends a clone whose time has come.
func (m *Manager) expireClone(c *clone, why string) {
	m.mu.Lock()
	detached := m.detach(c)
	m.mu.Unlock()
	if detached {
		m.endExpired(c, why)
	}
}

func (m *Manager) endExpired(c *clone, why string) {
	m.log.Info("clone expired", "clone", c.id, "golden", c.golden.Ref().String(), "reason", why)
	m.emit(access.Daemon, api.EventCloneExpired, c, why)
	m.end(m.ctx, c)
}

// whyDue says why a clone that was detached is due.
func (c *clone) whyDue() string {
	if at := c.rec.ExpiresAt; at != nil && !at.After(time.Now()) {
		return "its time is over"
	}
	return "its lease has ended"
}

func (c *clone) endsAt(m *Manager) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.rec.ExpiresAt == nil {
		return time.Time{}
	}
	return *c.rec.ExpiresAt
}

// due detaches the clones whose time has come and returns them, with those that are to be
// warned and the time of the next deadline.
func (m *Manager) due(now time.Time) (due, warn []*clone, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, nil, time.Time{}
	}
	passed := func(t time.Time) bool {
		if !t.After(now) {
			return true
		}
		if next.IsZero() || t.Before(next) {
			next = t
		}
		return false
	}
	for id, l := range m.leases {
		if l.holders == 0 && !l.deadline.IsZero() && passed(l.deadline) {
			delete(m.leases, id)
		}
	}
	for _, c := range m.clones {
		if c.rec.Protected {
			continue
		}
		over := c.rec.LeaseID != "" && m.leases[c.rec.LeaseID] == nil
		if at := c.rec.ExpiresAt; !over && at != nil {
			if over = passed(*at); !over && !c.warned.Equal(*at) && passed(at.Add(-warning(at.Sub(c.rec.CreatedAt)))) {
				c.warned = *at
				warn = append(warn, c)
			}
		}
		if over && m.detach(c) {
			due = append(due, c)
		}
	}
	return due, warn, next
}

// Extend moves the end of a clone's life to a TTL from now, protects it, or both. A clone that
// lives by a lease lives by its TTL from then on: this is how it is kept when the
// lease ends.
func (m *Manager) Extend(ctx context.Context, caller access.Caller, id string, req api.ExtendRequest) (api.Clone, error) {
	ttl := req.TTL
	if ttl <= 0 && req.Protect == nil {
		return api.Clone{}, fmt.Errorf("ttl must be above zero: %w", errdefs.ErrInvalidArgument)
	}
	if err := m.checkTTL(time.Duration(ttl)); err != nil {
		return api.Clone{}, err
	}
	c, err := m.find(caller, id)
	if err != nil {
		return api.Clone{}, err
	}
	err = m.update(ctx, c, func(r *record) {
		if req.Protect != nil {
			r.Protected = *req.Protect
		}
		if ttl > 0 {
			r.live(time.Duration(ttl))
			r.LeaseID, r.Holder = "", ""
		}
	})
	if err != nil {
		return api.Clone{}, err
	}
	m.emit(caller, api.EventCloneExtended, c, "")
	return m.Get(ctx, caller, c.id)
}
