package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/pool"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/keylock"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// creator makes the clones of requests: it has them checked, waits for room and for the caller's turn, has each taken
// from the pool or made, gives them what they are to have beside, and hands them out.
type creator struct {
	planner    *planner
	registry   *registry
	quota      *quota.Book
	queue      *pool.Queue // of all clones that are made
	warm       *warm
	maker      *maker
	passwords  *passwords
	extras     extras
	removals   *removal.Queue
	undertaker *undertaker
	parallel   int               // clones of one request that are made at a time
	payer      func(uid int) int // whose turns hold for a user
	room       func() error      // why nothing is to be made now; nil if it may
	events     *event.Hub
	step       func(string) error
	log        *slog.Logger

	naming keylock.Locks // by name; taken before all others
}

// made is a clone that a request got.
type made struct {
	*clone
	isNew bool
}

// create makes the clones of a request, all of them or none.
func (r *creator) create(ctx context.Context, caller access.Caller, req api.CloneRequest) (*plan, []made, error) {
	want, err := r.planner.plan(ctx, caller, req)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := r.naming.Lock(ctx, want.keys()...)
	if err != nil {
		return nil, nil, fmt.Errorf("wait for the name %s: %w", req.Name, err)
	}
	defer unlock()
	old, err := r.existing(want)
	if err != nil {
		return nil, nil, err
	}
	clones, err := r.fulfil(ctx, want, old)
	if err != nil {
		return nil, nil, fmt.Errorf("clone golden %s: %w", want.golden.Ref(), err)
	}
	all := make([]made, want.count)
	for i, c := range clones {
		all[i] = made{c, true}
		if c == nil {
			all[i] = made{old[i], false}
			r.prolong(ctx, old[i], want)
		}
	}
	return want, all, nil
}

// fulfil makes the clones that are wanted and hands them out, in place of old ones. Where old is to be reused, the
// result is nil.
func (r *creator) fulfil(ctx context.Context, want *plan, old []*clone) ([]*clone, error) {
	release, err := r.admit(ctx, want, want.made(old))
	if err != nil {
		return nil, err
	}
	defer release()
	clones, err := r.startAll(ctx, want, old)
	if err != nil {
		return nil, err
	}
	var back undo.Stack
	err = r.extras.give(ctx, r.registry, want, clones, old, &back)
	if err == nil {
		err = r.handOut(ctx, want, clones, old)
	}
	if err != nil {
		err = errors.Join(err, back.Run(ctx, undoTimeout))
		r.undertaker.discard(clones...)
		return nil, err
	}
	return clones, nil
}

// existing returns the clones that have the wanted names now, by position, or why they are in the way.
func (r *creator) existing(want *plan) ([]*clone, error) {
	old := make([]*clone, want.count)
	for i, name := range want.names {
		c := r.registry.named(want.caller.UID(), name)
		if c == nil {
			continue
		}
		switch {
		case want.ifExists == api.IfExistsFail:
			return nil, snapshot.WithHint(
				fmt.Errorf("clone %s exists already (%s): %w", name, c.id, errdefs.ErrAlreadyExists),
				"choose another name, or use if_exists=reuse or reset")
		case want.ifExists == api.IfExistsReuse && c.golden.Name != want.golden.Name:
			return nil, snapshot.WithHint(
				fmt.Errorf("clone %s is of golden %s, not %s: %w", name, c.golden.Name, want.golden.Name, errdefs.ErrAlreadyExists),
				"choose another name, or use if_exists=reset")
		}
		old[i] = c
	}
	return old, nil
}

// admit waits until there is room for count more clones, no longer than want allows: not at all where it does not say.
// What it takes is given back by release.
func (r *creator) admit(ctx context.Context, want *plan, count int) (release func(), err error) {
	if err := r.room(); err != nil {
		return nil, err
	}
	release, err = r.quota.Admit(ctx, quota.Request{
		UID: want.caller.UID(), Exempt: want.caller.IsAdmin(), Clones: count, Memory: want.limits.MemoryBytes, Wait: want.wait,
	})
	if errdefs.IsResourceExhausted(err) {
		err = snapshot.WithHint(err, "remove clones (ctrsnap ls, ctrsnap rm), or wait for others to: --wait-timeout")
	}
	return release, err
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

// startAll starts the clones that are wanted and cannot be reused. Where old is to be reused, the result is nil.
func (r *creator) startAll(ctx context.Context, want *plan, old []*clone) ([]*clone, error) {
	clones := make([]*clone, want.count)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(r.parallel)
	for i := range clones {
		if want.reuses(old[i]) {
			continue
		}
		g.Go(func() (err error) {
			clones[i], err = r.obtain(gctx, want, want.name(i))
			return err
		})
	}
	err := g.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		r.undertaker.discard(clones...)
		return nil, err
	}
	return clones, nil
}

// obtain takes a clone from the pool, or makes one when it is the caller's turn. A member that is made while the caller
// waits is theirs.
func (r *creator) obtain(ctx context.Context, want *plan, name string) (*clone, error) {
	for {
		begun := time.Now()
		c, await := r.warm.claim(want)
		var leave func()
		if c == nil {
			var err error
			leave, err = r.enqueue(ctx, want, await)
			if c = stopAwait(await); c == nil && err != nil {
				return nil, err
			}
		}
		if c == nil {
			return r.makeOne(ctx, want, name, leave)
		}
		if leave != nil {
			leave()
		}
		if await != nil {
			begun = time.Now()
		}
		ok, err := r.warm.handOver(ctx, c, want, name, begun)
		if ok {
			return c, nil
		}
		r.undertaker.end(ctx, c)
		if err != nil {
			return nil, err
		}
	}
}

// makeOne makes a clone for a caller whose turn it is, and leaves the queue.
func (r *creator) makeOne(ctx context.Context, want *plan, name string, leave func()) (*clone, error) {
	defer r.warm.members.Poke() // it held back for this one
	defer leave()
	if err := r.removals.Await(ctx); err != nil {
		return nil, err
	}
	c, err := r.maker.make(ctx, want, name)
	if err != nil {
		return nil, err
	}
	if err := r.setOwnPassword(ctx, c, want); err != nil {
		r.undertaker.discard(c)
		return nil, err
	}
	return c, nil
}

// setOwnPassword gives a clone that was just made a password of its own, if that is wanted.
func (r *creator) setOwnPassword(ctx context.Context, c *clone, want *plan) error {
	if !want.ownPassword {
		return nil
	}
	begun := time.Now()
	change, err := r.passwords.set(ctx, c, want)
	if err != nil {
		return err
	}
	return r.registry.update(ctx, c, func(r *record) {
		change(r)
		took := milliseconds(time.Since(begun))
		r.Timings = maps.Clone(r.Timings) // others may read the old one
		r.Timings[api.StagePersonalise] = took
		r.Timings[api.StageTotal] += took
	})
}

// enqueue waits for the caller's turn to have a clone made. leave is nil if a member came first.
func (r *creator) enqueue(ctx context.Context, want *plan, await *pool.Await[*clone]) (leave func(), err error) {
	wctx, cancel := ctx, context.CancelFunc(func() {})
	if want.wait > 0 {
		wctx, cancel = context.WithTimeout(ctx, want.wait)
	}
	defer cancel()
	w := pool.Waiting{Moved: runtime.Progress(ctx)}
	if await != nil {
		w.Instead = await.Came()
	}
	leave, place, err := r.queue.Enter(wctx, "uid "+strconv.Itoa(r.payer(want.caller.UID())), w)
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

// handOut makes clones visible and takes their predecessors away.
func (r *creator) handOut(ctx context.Context, want *plan, clones, old []*clone) error {
	if err := r.step("hand out"); err != nil {
		return err
	}
	replaced, err := r.registry.handOut(want.caller, want.lease, clones, old)
	if err != nil {
		return err
	}
	for _, c := range clones {
		if c != nil {
			emit(r.events, want.caller, api.EventCloneCreated, c, "")
		}
	}
	for _, c := range replaced {
		_ = r.step("replace") // there is no way back
		emit(r.events, want.caller, api.EventCloneRemoved, c, "reset")
		r.undertaker.end(ctx, c)
	}
	return nil
}

// prolong lets a clone that is handed out again live as long as the request wants, if it lives by a TTL and not longer
// anyway.
func (r *creator) prolong(ctx context.Context, c *clone, want *plan) {
	until := time.Now().Add(want.ttl)
	at := c.record().ExpiresAt
	if want.ttl == 0 || at == nil || !at.Before(until) {
		return
	}
	err := r.registry.update(ctx, c, func(r *record) { r.ExpiresAt = &until })
	if err != nil && !errors.Is(err, context.Canceled) {
		r.log.Warn("clone not extended", "clone", c.id, "error", err)
	}
}
