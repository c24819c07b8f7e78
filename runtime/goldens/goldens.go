// Package goldens does what is done to goldens by their names: it lists them, says which version is the current one and
// who may do what, verifies and removes them. It has the pool of clones that are made ahead follow, and the world know.
// Who builds a golden adds it here.
package goldens

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/flight"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/keylock"
)

// Store has the goldens: see [snapshot.Store].
type Store interface {
	Golden(ctx context.Context, ref snapshot.Ref) (snapshot.Golden, error)
	Goldens(ctx context.Context) ([]snapshot.Golden, error)
	Promote(ctx context.Context, ref snapshot.Ref) error
	SetAccess(ctx context.Context, name string, a snapshot.Access) error
	VerifyDigest(ctx context.Context, ref snapshot.Ref) error
	RemoveGolden(ctx context.Context, ref snapshot.Ref) error
}

// Clones are what there is of goldens: [manager.Manager].
type Clones interface {
	// Live says how many live clones a golden has.
	Live(ref snapshot.Ref) int
	// RefreshPool has the pool look at which goldens there are.
	RefreshPool(ctx context.Context) error
	// SuspendPool removes the clones that nobody has of a golden, with version 0 of a name, waits until they and all
	// that were removed are gone, and keeps new ones from being made until resume is called.
	SuspendPool(ctx context.Context, ref snapshot.Ref) (resume func(), err error)
}

// Users are users who are not of this host: [access.CertUsers]. Either method says false for
// what is none of theirs.
type Users interface {
	Name(uid int) (string, bool)
	ID(name string) (int, bool, error)
}

// Options are what Goldens work with.
type Options struct {
	Store  Store
	Clones Clones
	Users  Users        // nil knows none
	Events *event.Hub   // takes what happens to goldens; nil drops it
	Uses   *Uses        // knows when goldens were used; nil knows only when they were built
	Log    *slog.Logger // default slog.Default()
}

// Goldens are those of a store. They are safe for concurrent use.
type Goldens struct {
	opts   Options
	naming sync.Mutex // held while whose a name is, or which version is current, is decided; commits are one at a time anyway

	verifiers keylock.Locks // by user
	verified  flight.Group[struct{}]
}

// New returns the goldens of a store.
func New(o Options) *Goldens {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Goldens{opts: o}
}

// find returns a golden that the caller may know of.
func (g *Goldens) find(ctx context.Context, caller access.Caller, r snapshot.Ref) (snapshot.Golden, error) {
	found, err := g.opts.Store.Golden(ctx, r)
	return caller.Readable(r, found, err)
}

// writable returns a golden that the caller may change; with version 0 one of a name.
func (g *Goldens) writable(ctx context.Context, caller access.Caller, r snapshot.Ref) (found snapshot.Golden, err error) {
	all, err := g.readable(ctx, caller)
	if err != nil {
		return found, err
	}
	i := slices.IndexFunc(all, func(g snapshot.Golden) bool { return g.Name == r.Name && (r.Version == 0 || g.Version == r.Version) })
	if i < 0 {
		return found, snapshot.NoGolden(r)
	}
	return all[i], caller.CheckWrite(all[i])
}

// readable are those that the caller may know of.
func (g *Goldens) readable(ctx context.Context, caller access.Caller) ([]snapshot.Golden, error) {
	all, err := g.opts.Store.Goldens(ctx)
	return slices.DeleteFunc(all, func(g snapshot.Golden) bool { return !caller.MayRead(g) }), err
}

// List returns the goldens of name, or all if name is empty, by name and version.
func (g *Goldens) List(ctx context.Context, caller access.Caller, name string) ([]api.Golden, error) {
	if name != "" {
		if err := snapshot.ValidateName(name); err != nil {
			return nil, err
		}
	}
	all, err := g.readable(ctx, caller)
	if err != nil {
		return nil, fmt.Errorf("list goldens: %w", err)
	}
	list := []api.Golden{}
	for _, one := range all {
		if name == "" || one.Name == name {
			list = append(list, g.Describe(one))
		}
	}
	return list, nil
}

// Get returns one golden; without a version the current one.
func (g *Goldens) Get(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	found, err := g.find(ctx, caller, r)
	if err != nil {
		return api.Golden{}, fmt.Errorf("get golden %s: %w", r, err)
	}
	return g.Describe(found), nil
}

// Promote makes ref, which has a version, the current one of its name.
func (g *Goldens) Promote(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	if r.Version == 0 {
		return api.Golden{}, snapshot.WithHint(
			fmt.Errorf("promote golden %s: no version given: %w", r, errdefs.ErrInvalidArgument),
			"say which version: "+r.Name+":1")
	}
	return g.promote(ctx, caller, r)
}

func (g *Goldens) promote(ctx context.Context, caller access.Caller, r snapshot.Ref) (api.Golden, error) {
	g.naming.Lock()
	defer g.naming.Unlock()
	found, err := g.writable(ctx, caller, r)
	if err == nil {
		err = g.opts.Store.Promote(ctx, r)
	}
	if err != nil {
		return api.Golden{}, fmt.Errorf("promote golden %s: %w", r, err)
	}
	g.opts.Log.InfoContext(ctx, "golden promoted", "golden", r.String())
	g.changed(ctx, caller, api.EventGoldenChanged, found, "current")
	return g.Get(ctx, caller, r.String())
}

// Verify reads a golden whole and compares it with the digest of what was built. A user's verifications come one after
// the other; those who want the same golden verified share one.
func (g *Goldens) Verify(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	found, err := g.find(ctx, caller, r)
	if err != nil {
		return api.Golden{}, err
	}
	unlock, err := g.verifiers.Lock(ctx, strconv.Itoa(caller.UID()))
	if err != nil {
		return api.Golden{}, fmt.Errorf("wait for another verification: %w", err)
	}
	defer unlock()
	_, err = g.verified.Do(ctx, found.Ref().String(), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.opts.Store.VerifyDigest(ctx, found.Ref())
	})
	return g.Describe(found), err
}

// Rollback makes the next older version that exists the current one.
// FailedPrecondition if there is none.
func (g *Goldens) Rollback(ctx context.Context, caller access.Caller, name string) (api.Golden, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return api.Golden{}, err
	}
	current, err := g.find(ctx, caller, snapshot.Ref{Name: name})
	if err != nil {
		return api.Golden{}, fmt.Errorf("roll back golden %s: %w", name, err)
	}
	all, err := g.readable(ctx, caller)
	if err != nil {
		return api.Golden{}, fmt.Errorf("roll back golden %s: %w", name, err)
	}
	older := 0
	for _, one := range all {
		if one.Name == name && one.Version < current.Version {
			older = max(older, one.Version)
		}
	}
	if older == 0 {
		return api.Golden{}, snapshot.WithHint(
			fmt.Errorf("roll back golden %s: no version older than %d: %w", name, current.Version, errdefs.ErrFailedPrecondition),
			"'ctrsnap golden history "+name+"' lists the versions")
	}
	g.opts.Log.InfoContext(ctx, "golden rolls back", "golden", name, "from", current.Version, "to", older)
	return g.promote(ctx, caller, snapshot.Ref{Name: name, Version: older})
}

// Remove removes one version: "shop:3", "shop:current"; or all: "shop". Clones that nobody has do not keep a golden
// from being removed.
func (g *Goldens) Remove(ctx context.Context, caller access.Caller, ref string) error {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return err
	}
	gone, err := g.writable(ctx, caller, r)
	if err == nil && r.Version == 0 && strings.Contains(ref, ":") {
		// A Ref without version means the current one to ParseRef, but all of them to RemoveGolden.
		if gone, err = g.opts.Store.Golden(ctx, r); err == nil {
			r = gone.Ref()
		}
	}
	if err != nil {
		return fmt.Errorf("remove golden %s: %w", ref, err)
	}
	resume, err := g.opts.Clones.SuspendPool(ctx, r)
	if err != nil {
		return fmt.Errorf("remove golden %s: %w", r, err)
	}
	defer resume()
	if err := g.opts.Store.RemoveGolden(ctx, r); err != nil {
		g.refresh(ctx) // some of them may be gone
		return err
	}
	g.opts.Log.InfoContext(ctx, "golden removed", "golden", r.String())
	gone.Version = r.Version
	g.changed(ctx, caller, api.EventGoldenRemoved, gone, "")
	return nil
}

// changed has the world know what a caller did to a golden, and the pool follow.
func (g *Goldens) changed(ctx context.Context, by access.Caller, t api.EventType, golden snapshot.Golden, reason string) {
	g.opts.Events.Emit(event.Event{
		Event:  api.Event{Type: t, Golden: golden.Ref().String(), Owner: g.userName(golden.Access.Owner), By: by.Name, Reason: reason},
		Access: &golden.Access,
	})
	g.refresh(ctx)
}

// refresh has the pool look at which goldens there are. What was asked for is done: a pool that knows later is no
// reason to fail.
func (g *Goldens) refresh(ctx context.Context) {
	if err := g.opts.Clones.RefreshPool(context.WithoutCancel(ctx)); err != nil {
		g.opts.Log.ErrorContext(ctx, "refresh pool", "error", err)
	}
}

// Describe returns what a user sees of a golden; State, which holds secrets, stays here.
func (g *Goldens) Describe(of snapshot.Golden) api.Golden {
	a := api.Golden{
		Schema:        api.Schema,
		Name:          of.Name,
		Version:       of.Version,
		Current:       of.Current,
		Engine:        of.Engine,
		EngineVersion: of.EngineVersion,
		Key:           of.Key,
		KeyParts:      maps.Clone(of.KeyParts),
		Parent:        of.Parent,
		Base:          api.Base{Kind: of.Base.Kind, Ref: of.Base.Ref, Digest: of.Base.Digest},
		Builder:       of.Builder,
		CreatedAt:     of.Created,
		BuildSeconds:  of.BuildSeconds,
		SizeBytes:     of.Size,
		Digest:        of.Digest,
		Clones:        g.opts.Clones.Live(of.Ref()),
		Settings:      of.Settings,
		Warnings:      of.Warnings,
		Owner:         g.userName(of.Access.Owner),
		Group:         groupName(of.Access.Group),
		Mode:          fmt.Sprintf("%04o", of.Access.Mode),
		Protected:     of.Access.Protected,
		UsedAt:        g.opts.Uses.Last(of),
		DamagedAt:     of.DamagedAt,
	}
	for _, secret := range []string{"login", "env"} {
		if a.KeyParts[secret] != "" {
			a.KeyParts[secret] = "secret" // its digest would let others try what it is
		}
	}
	for _, s := range of.Sources {
		a.Sources = append(a.Sources, api.Source(s))
	}
	return a
}
