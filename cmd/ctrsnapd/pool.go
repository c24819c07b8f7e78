package main

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/build"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// pool says how many clones the manager makes ahead.
func (d *daemon) pool() manager.Pool {
	c := d.cfg.Pool
	p := manager.Pool{Size: c.Size, Auto: c.Auto, Max: c.Max, Parallel: c.Parallel, Memory: int64(c.Memory), Sizes: d.store}
	if p.Memory == 0 {
		var info unix.Sysinfo_t
		if unix.Sysinfo(&info) == nil {
			p.Memory = int64(info.Totalram) * int64(info.Unit) / 4
		}
	}
	return p
}

// pooled has the pool follow what happens to goldens.
type pooled struct {
	*build.Builder
	d *daemon
}

// refresh tells the pool that goldens have changed. What was asked for is done:
// a pool that knows later is no reason to fail.
func (p pooled) refresh(ctx context.Context) {
	if err := p.d.manager.RefreshPool(context.WithoutCancel(ctx)); err != nil {
		p.d.log.Error("refresh pool", "error", err)
	}
}

// Promote implements [server.Goldens].
func (p pooled) Promote(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	defer p.refresh(ctx)
	return p.Builder.Promote(ctx, caller, ref)
}

// Rollback implements [server.Goldens].
func (p pooled) Rollback(ctx context.Context, caller access.Caller, name string) (api.Golden, error) {
	defer p.refresh(ctx)
	return p.Builder.Rollback(ctx, caller, name)
}

// SetAccess implements [server.Goldens].
func (p pooled) SetAccess(ctx context.Context, caller access.Caller, name string, req api.AccessRequest) (api.Golden, error) {
	defer p.refresh(ctx)
	return p.Builder.SetAccess(ctx, caller, name, req)
}

// Build implements [server.Goldens].
func (p pooled) Build(ctx context.Context, caller access.Caller, req api.BuildRequest, next func() (api.Part, error), events func(api.BuildEvent)) (api.Golden, bool, error) {
	g, existed, err := p.Builder.Build(ctx, caller, req, next, events)
	if err == nil && !existed {
		p.refresh(ctx)
	}
	return g, existed, err
}

// Remove implements [server.Goldens]: clones that nobody has do not keep a
// golden from being removed.
func (p pooled) Remove(ctx context.Context, caller access.Caller, name string) error {
	ref, err := snapshot.ParseRef(name)
	if err != nil {
		return err
	}
	if ref.Version == 0 && strings.Contains(name, ":") { // the current one, not all: see Builder.Remove
		g, err := p.Get(ctx, caller, ref.String())
		if err != nil {
			return err
		}
		ref.Version = g.Version
	}
	if err := p.MayRemove(ctx, caller, ref); err != nil { // before its pool is emptied
		return err
	}
	resume, err := p.d.manager.SuspendPool(ctx, ref)
	if err != nil {
		return err
	}
	defer resume()
	defer p.refresh(ctx)
	return p.Builder.Remove(ctx, caller, ref.String())
}
