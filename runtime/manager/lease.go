package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// lease is what clones live by that end with a connection.
type lease struct {
	id       string
	uid      int // who may add clones, and hold it
	holders  int
	deadline time.Time // when it ends, if nobody holds it; zero until Serving is called
}

// joinLease has clones live by the wanted lease. The caller holds mu.
func (m *Manager) joinLease(want *plan, clones []*clone) error {
	if want.newLease {
		l := &lease{id: want.leaseID, uid: want.caller.UID(), deadline: time.Now().Add(m.opts.LeaseGrace)}
		m.leases[want.leaseID] = l
		if want.holder != (holder{}) {
			m.holdBy(l, want.holder)
		}
		return nil
	}
	l := m.leases[want.leaseID]
	if l == nil || !want.caller.May(l.uid) {
		return errNoLease(want.leaseID)
	}
	return nil
}

func errNoLease(id string) error {
	return snapshot.WithHint(
		fmt.Errorf("no lease %.64q: %w", id, errdefs.ErrNotFound),
		"it was not held in time, or its connection has ended: ask for a new clone")
}

// Serving begins the time that holders of recovered leases have to come back, LeaseRestartGrace. Call it when they can.
func (m *Manager) Serving() {
	m.mu.Lock()
	for _, l := range m.leases {
		if l.deadline.IsZero() {
			l.deadline = time.Now().Add(m.opts.LeaseRestartGrace)
		}
	}
	m.mu.Unlock()
	m.poke()
}

// Hold holds a lease until ctx ends or the Manager is closed. When its last holder
// has left, the clones of the lease are removed a moment later; not so when
// the Manager is closed.
func (m *Manager) Hold(ctx context.Context, caller access.Caller, id string, held func()) error {
	m.mu.Lock()
	l := m.leases[id]
	hidden := l == nil || !caller.May(l.uid)
	if hidden || m.closing {
		m.mu.Unlock()
		if !hidden {
			return errClosing
		}
		return errNoLease(id)
	}
	l.holders++
	m.mu.Unlock()
	held()
	select {
	case <-ctx.Done():
	case <-m.ctx.Done():
	}
	stopping := m.ctx.Err() != nil || errors.Is(context.Cause(ctx), runtime.ErrStopping)
	if stopping {
		m.release(l, m.opts.LeaseRestartGrace)
		return errClosing
	}
	m.release(l, releaseDelay)
	return nil
}

// release gives a hold back; a lease that nobody takes within grace ends.
func (m *Manager) release(l *lease, grace time.Duration) {
	m.mu.Lock()
	l.holders--
	l.deadline = time.Now().Add(grace)
	m.mu.Unlock()
	m.poke()
}
