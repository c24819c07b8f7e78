package manager

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const killTimeout = 2 * time.Second

// undertaker ends clones: by their users' wish, when their time has come, or when something is wrong with them.
type undertaker struct {
	host
	extras   extras
	registry *registry
	removals *removal.Queue
	events   *event.Hub
}

// emit has the world know what a caller did to a clone that is, or was, handed out.
func emit(to *event.Hub, by access.Caller, t api.EventType, c *clone, reason string) {
	rec := c.record()
	to.Emit(event.Event{
		Event: api.Event{
			Type: t, Clone: c.id, Name: rec.Name, Golden: c.golden.Ref().String(), Owner: rec.Owner, By: by.Name, Reason: reason,
		},
		OwnerUID: rec.OwnerUID,
	})
}

// remove makes a clone invisible and kills its server. The rest is torn down afterwards. One that is protected goes by
// force only.
func (u *undertaker) remove(ctx context.Context, caller access.Caller, c *clone, force bool) error {
	if c.record().Protected && !force {
		return snapshot.WithHint(
			fmt.Errorf("clone %s is protected: %w", c.id, errdefs.ErrFailedPrecondition),
			"ctrsnap rm --force "+c.id+", or ctrsnap extend --protect=false")
	}
	if u.registry.remove(c) { // else somebody else was faster
		u.log.Info("clone removed", "clone", c.id, "golden", c.golden.Ref().String())
		_ = u.step("removed") // there is no way back
		emit(u.events, caller, api.EventCloneRemoved, c, "")
		u.end(ctx, c)
	}
	return nil
}

// expire ends a clone whose time has come, or that nobody uses, unless it has ended already.
func (u *undertaker) expire(id, why string) {
	c := u.registry.get(id)
	if c == nil || !u.registry.remove(c) {
		return
	}
	u.log.Info("clone expired", "clone", c.id, "golden", c.golden.Ref().String(), "reason", why)
	emit(u.events, access.Daemon, api.EventCloneExpired, c, why)
	u.end(context.Background(), c)
}

// expiring has the world know of a clone that ends soon.
func (u *undertaker) expiring(id, why string) {
	if c := u.registry.get(id); c != nil {
		emit(u.events, access.Daemon, api.EventCloneExpiring, c, why)
	}
}

// halt ends the server of a clone, whose record says why. The clone stays.
func (u *undertaker) halt(ctx context.Context, id, reason string) {
	c := u.registry.get(id)
	if c == nil {
		return // it went meanwhile
	}
	if err := u.registry.update(ctx, c, func(r *record) { r.Reason = "stopped: " + reason }); err != nil {
		u.log.Warn("reason not recorded", "clone", c.id, "error", err)
	}
	u.log.Warn("clone stopped", "clone", c.id, "golden", c.golden.Ref().String(), "reason", reason)
	u.kill(ctx, c)
	emit(u.events, access.Daemon, api.EventCloneStopped, c, reason)
}

// died tells of a server that has ended by itself.
func (u *undertaker) died(c *clone) {
	if !u.registry.has(c) {
		return
	}
	code, news := fmt.Sprintf("exit code %d", c.exit.Code), false
	c.change(func(r *record) {
		if news = r.Reason == ""; news {
			r.Reason = "its server has ended by itself, " + code
		}
	})
	if news {
		emit(u.events, access.Daemon, api.EventCloneDied, c, code)
	}
}

// end kills the server of a clone that is invisible and has the rest torn down. A restart before that is done finds a
// container without a running task, and goes on there.
func (u *undertaker) end(ctx context.Context, c *clone) {
	u.kill(ctx, c)
	_ = u.step("killed")
	u.removals.Remove(c.id)
}

// kill ends the server. What else there is of the clone, a teardown takes away, which tries again what fails here.
func (u *undertaker) kill(ctx context.Context, c *clone) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	_ = u.extras.take(ctx, c.id, c.namespace()) // ports and addresses are free for the next one
	if !c.isDead() {
		_ = c.task.Signal(ctx, syscall.SIGKILL) // it may be gone
	}
}

// discard tears down clones that were not handed out, and waits for it. nil stands for none.
func (u *undertaker) discard(clones ...*clone) {
	var gone []<-chan struct{}
	for _, c := range clones {
		if c != nil {
			gone = append(gone, u.removals.Remove(c.id))
		}
	}
	u.removals.Wait(undoTimeout, gone...)
}

// tearDown removes all that a clone is made of, or what is left of it. It is idempotent.
func (u *undertaker) tearDown(ctx context.Context, id string) error {
	type part struct {
		step string
		do   func() error
	}
	parts := []part{{"remove container", func() error { return u.runner.Delete(ctx, id) }}}
	for _, e := range u.extras {
		parts = append(parts, part{"remove " + e.name(), func() error { return e.take(ctx, id, "") }})
	}
	parts = append(parts,
		part{"remove network", func() error { return u.network.Remove(ctx, id) }},
		part{"remove snapshot", func() error { return u.store.Remove(ctx, id) }},
		part{"remove files", func() error { return u.files.remove(id) }})
	for _, p := range parts {
		if err := errors.Join(u.step(p.step), p.do()); err != nil {
			return fmt.Errorf("tear down clone %s: %w", id, err)
		}
	}
	return nil
}
