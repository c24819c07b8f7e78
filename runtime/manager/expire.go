package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

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
		due, next := m.due(time.Now())
		for _, c := range due {
			m.log.Info("clone expired", "clone", c.id, "golden", c.golden.Ref().String())
			m.end(m.ctx, c)
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

// due detaches the clones whose time has come and returns them, with the time
// of the next deadline.
func (m *Manager) due(now time.Time) (due []*clone, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, time.Time{}
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
		if l.holders == 0 && passed(l.deadline) {
			delete(m.leases, id)
		}
	}
	for _, c := range m.clones {
		over := c.rec.LeaseID != "" && m.leases[c.rec.LeaseID] == nil
		if at := c.rec.ExpiresAt; !over && at != nil {
			over = passed(*at)
		}
		if over && m.detach(c) {
			due = append(due, c)
		}
	}
	return due, next
}

// Extend moves the end of a clone's life to ttl from now. A clone that lives by
// a connection lives by its TTL from then on: this is how it is kept when the
// connection ends.
func (m *Manager) Extend(ctx context.Context, id string, ttl api.Duration) (api.Clone, error) {
	if ttl <= 0 {
		return api.Clone{}, fmt.Errorf("ttl must be above zero: %w", errdefs.ErrInvalidArgument)
	}
	if err := m.checkTTL(time.Duration(ttl)); err != nil {
		return api.Clone{}, err
	}
	c, err := m.find(ctx, id)
	if err != nil {
		return api.Clone{}, err
	}
	err = m.update(ctx, c, func(r *record) {
		at := time.Now().Add(time.Duration(ttl)).Round(0)
		r.ExpiresAt, r.LeaseID = &at, ""
	})
	if err != nil {
		return api.Clone{}, err
	}
	return m.Get(ctx, c.id)
}
