package manager

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// Create makes the clones of a request, all of them or none. A caller that
// leaves meanwhile (ctx ends) gets none.
//
// A clone that exists by a wanted name is an error (fail), is handed out as it
// is unless it is dead or of another golden (reuse), or is replaced once its
// successor answers (reset).
func (m *Manager) Create(ctx context.Context, caller access.Caller, req api.CloneRequest) (api.CloneResponse, error) {
	ctx, leave, err := m.enter(ctx)
	if err != nil {
		return api.CloneResponse{}, err
	}
	defer leave()
	resp, err := m.create(ctx, caller, req)
	if err != nil && errors.Is(context.Cause(ctx), errClosing) {
		err = errClosing
	}
	return resp, err
}

func (m *Manager) create(ctx context.Context, caller access.Caller, req api.CloneRequest) (api.CloneResponse, error) {
	want, err := m.plan(ctx, caller, req)
	if err != nil {
		return api.CloneResponse{}, err
	}
	unlock, err := m.naming.Lock(ctx, want.keys()...)
	if err != nil {
		return api.CloneResponse{}, fmt.Errorf("wait for the name %s: %w", req.Name, err)
	}
	defer unlock()
	old, err := m.existing(want)
	if err != nil {
		return api.CloneResponse{}, err
	}
	release, err := m.admit(ctx, want, want.made(old))
	if err != nil {
		return api.CloneResponse{}, fmt.Errorf("clone golden %s: %w", want.golden.Ref(), err)
	}
	defer release()
	clones, err := m.startAll(ctx, want, old)
	if err != nil {
		return api.CloneResponse{}, fmt.Errorf("clone golden %s: %w", want.golden.Ref(), err)
	}
	var given undo.Stack // by predecessors to their successors
	err = m.publishAll(ctx, want, old, clones, &given)
	if err == nil {
		err = m.attachAll(ctx, want, old, clones, &given)
	}
	if err == nil {
		err = m.handOut(ctx, want, old, clones)
	}
	if err != nil {
		err = errors.Join(err, given.Run(ctx, undoTimeout))
		m.discard(clones)
		return api.CloneResponse{}, fmt.Errorf("clone golden %s: %w", want.golden.Ref(), err)
	}
	resp := api.CloneResponse{Schema: api.Schema, LeaseID: want.lease.ID}
	for i := range want.count {
		c, created := clones[i], true
		if c == nil {
			c, created = old[i], false
			m.prolong(ctx, c, want)
		}
		seen := m.describe(c)
		seen.Created = created
		resp.Clones = append(resp.Clones, seen)
	}
	return resp, nil
}

// existing returns the clones that have the wanted names now, by position, or
// why they are in the way.
func (m *Manager) existing(want *plan) ([]*clone, error) {
	old := make([]*clone, want.count)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, name := range want.names {
		c := m.names[nameOf{want.caller.UID(), name}]
		if c == nil {
			continue
		}
		switch {
		case want.ifExists == api.IfExistsFail:
			return nil, snapshot.WithHint(
				fmt.Errorf("clone %s exists already (%s): %w", name, c.id, errdefs.ErrAlreadyExists),
				"choose another name, or use if_exists=reuse or reset")
		case want.ifExists == api.IfExistsReuse && c.rec.Golden != want.golden.Name:
			return nil, snapshot.WithHint(
				fmt.Errorf("clone %s is of golden %s, not %s: %w", name, c.rec.Golden, want.golden.Name, errdefs.ErrAlreadyExists),
				"choose another name, or use if_exists=reset")
		}
		old[i] = c
	}
	return old, nil
}

// reuses says whether a clone that exists is what is wanted.
func (p *plan) reuses(old *clone) bool {
	return old != nil && p.ifExists == api.IfExistsReuse && !old.isDead()
}

// made is how many clones there will be more.
func (p *plan) made(old []*clone) int {
	n := p.count
	for _, c := range old {
		if c != nil {
			n-- // it stays, or goes when its successor is there
		}
	}
	return n
}

// startAll starts the clones that are wanted and cannot be reused. Where old is
// to be reused, the result is nil.
func (m *Manager) startAll(ctx context.Context, want *plan, old []*clone) ([]*clone, error) {
	clones := make([]*clone, want.count)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(m.opts.Parallel)
	for i := range clones {
		if want.reuses(old[i]) {
			continue
		}
		g.Go(func() (err error) {
			clones[i], err = m.obtain(gctx, want, want.name(i))
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		m.discard(clones)
		return nil, err
	}
	return clones, nil
}

// obtain takes a clone from the pool, or makes one when it is the caller's turn.
// A member that is made while the caller waits is his.
func (m *Manager) obtain(ctx context.Context, want *plan, name string) (*clone, error) {
	for {
		begun := time.Now()
		c, await := m.fromPool(want)
		var leave func()
		if c == nil {
			var err error
			leave, err = m.enqueue(ctx, want, await)
			if c = stopAwait(await); c == nil && err != nil {
				return nil, err
			}
		}
		if c == nil {
			return m.makeClone(ctx, want, name, leave)
		}
		if leave != nil {
			leave()
		}
		if await != nil {
			begun = time.Now()
		}
		if c, err := m.handOver(ctx, c, want, name, begun); c != nil || err != nil {
			return c, err
		}
	}
}

// makeClone makes a clone for a caller whose turn it is, and leaves the queue.
func (m *Manager) makeClone(ctx context.Context, want *plan, name string, leave func()) (*clone, error) {
	defer m.pool.Poke() // it held back for this one
	defer leave()
	if err := m.awaitRemovals(ctx); err != nil {
		return nil, err
	}
	c, err := m.start(ctx, want, name)
	if err != nil {
		return nil, err
	}
	return m.lock(ctx, c, want)
}

// enqueue waits for the caller's turn to have a clone made. leave is nil if a
// member came first.
func (m *Manager) enqueue(ctx context.Context, want *plan, await *pool.Await[*clone]) (leave func(), err error) {
	wctx, cancel := ctx, context.CancelFunc(func() {})
	if want.wait > 0 {
		wctx, cancel = context.WithTimeout(ctx, want.wait)
	}
	defer cancel()
	w := pool.Waiting{Moved: runtime.Progress(ctx)}
	if await != nil {
		w.Instead = await.Came()
	}
	leave, place, err := m.creating.Enter(wctx, "uid "+strconv.Itoa(want.caller.UID()), w)
	if err == nil {
		return leave, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, snapshot.WithHint(
		fmt.Errorf("no turn within %s, place %d in the queue: %w", want.wait, place, context.DeadlineExceeded),
		"wait longer, or have clones made ahead: 'ctrsnap pool set "+want.golden.Name+" --size N'")
}

// discard removes clones that were not handed out, and waits for it.
func (m *Manager) discard(clones []*clone) {
	var done []<-chan struct{}
	for _, c := range clones {
		if c != nil {
			done = append(done, m.teardown(c.id))
		}
	}
	for _, d := range done {
		select {
		case <-d:
		case <-m.ctx.Done():
		case <-time.After(undoTimeout): // it is tried again without us
		}
	}
}

// handOut makes clones visible and takes their predecessors away.
func (m *Manager) handOut(ctx context.Context, want *plan, old, clones []*clone) error {
	if err := m.step("hand out"); err != nil {
		return err
	}
	m.mu.Lock()
	if m.closing {
		m.mu.Unlock()
		return errClosing // the next Manager would keep what nobody got
	}
	if err := m.leases.Join(want.caller, want.lease, lives(clones)...); err != nil {
		m.mu.Unlock()
		return err
	}
	var replaced []*clone
	for i, c := range clones {
		if c == nil {
			continue
		}
		m.attach(c) // first, so that nobody else gets the room
		if old[i] != nil && m.detach(old[i]) {
			replaced = append(replaced, old[i])
		}
	}
	m.mu.Unlock()
	for _, c := range clones {
		if c != nil {
			m.emit(want.caller, api.EventCloneCreated, c, "")
		}
	}
	for _, c := range replaced {
		_ = m.step("replace") // there is no way back
		m.emit(want.caller, api.EventCloneRemoved, c, "reset")
		m.end(ctx, c)
	}
	return nil
}

// lives says how long each clone lives that is there.
func lives(clones []*clone) []lease.Clone {
	var list []lease.Clone
	for _, c := range clones {
		if c != nil {
			list = append(list, lease.Clone{ID: c.id, Life: c.rec.life()})
		}
	}
	return list
}

// attach makes a clone visible. The caller holds mu.
func (m *Manager) attach(c *clone) {
	m.clones[c.id] = c
	m.quota.Add(c.id, c.rec.OwnerUID, c.rec.Limits.MemoryBytes)
	m.namesVersion.Add(1)
	if c.rec.Name != "" {
		m.names[c.name()] = c
	}
}

// detach makes a clone invisible. It returns false if it was so already. The
// caller holds mu.
func (m *Manager) detach(c *clone) bool {
	if m.clones[c.id] != c {
		return false
	}
	delete(m.clones, c.id)
	m.namesVersion.Add(1)
	if m.names[c.name()] == c {
		delete(m.names, c.name())
	}
	close(c.gone)
	m.quota.Remove(c.id)
	m.leases.Leave(c.id)
	return true
}

// prolong lets a clone that is handed out again live as long as the request
// wants, if it lives by a TTL and not longer anyway.
func (m *Manager) prolong(ctx context.Context, c *clone, want *plan) {
	until := time.Now().Add(want.ttl)
	m.mu.Lock()
	at := c.rec.ExpiresAt
	m.mu.Unlock()
	if want.ttl == 0 || at == nil || !at.Before(until) {
		return
	}
	err := m.update(ctx, c, func(r *record) { r.ExpiresAt = &until })
	if err != nil && !errors.Is(err, context.Canceled) {
		m.log.Warn("clone not extended", "clone", c.id, "error", err)
	}
}
