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
	if err := m.planner.checkTTL(time.Duration(ttl)); err != nil {
		return api.Clone{}, err
	}
	c, err := m.registry.find(caller, id)
	if err != nil {
		return api.Clone{}, err
	}
	err = m.registry.update(ctx, c, func(r *record) {
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
	emit(m.opts.Events, caller, api.EventCloneExtended, c, "")
	return m.Get(ctx, caller, c.id)
}
