package manager

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
)

// expire ends a clone whose time has come, or that nobody uses, unless it has ended already.
func (m *Manager) expire(id, why string) {
	m.mu.Lock()
	c := m.clones[id]
	detached := c != nil && m.detach(c)
	m.mu.Unlock()
	if !detached {
		return
	}
	m.log.Info("clone expired", "clone", c.id, "golden", c.golden.Ref().String(), "reason", why)
	m.emit(access.Daemon, api.EventCloneExpired, c, why)
	m.end(m.ctx, c)
}

// expiring has the world know of a clone that ends soon.
func (m *Manager) expiring(id, why string) {
	m.mu.Lock()
	c := m.clones[id]
	m.mu.Unlock()
	if c != nil {
		m.emit(access.Daemon, api.EventCloneExpiring, c, why)
	}
}

// life says how long a clone lives.
func (r *record) life() lease.Life {
	l := lease.Life{Lease: r.LeaseID, Since: r.CreatedAt, Protected: r.Protected}
	if r.ExpiresAt != nil {
		l.Until = *r.ExpiresAt
	}
	return l
}

// Serving begins the time that holders of recovered leases have to come back, LeaseRestartGrace. Call it when they can.
func (m *Manager) Serving() { m.leases.Serving() }

// Hold holds a lease until ctx ends; see [lease.Book.Hold].
func (m *Manager) Hold(ctx context.Context, caller access.Caller, id string, held func()) error {
	return m.leases.Hold(ctx, caller, id, held)
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
