package build

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// List returns the goldens of name, or all if name is empty, by name and version, of those that the
// caller may know of.
func (b *Builder) List(ctx context.Context, caller access.Caller, name string) ([]api.Golden, error) {
	if name != "" {
		if err := snapshot.ValidateName(name); err != nil {
			return nil, err
		}
	}
	all, err := b.goldens(ctx, caller)
	if err != nil {
		return nil, fmt.Errorf("list goldens: %w", err)
	}
	list := []api.Golden{}
	for _, g := range all {
		if name == "" || g.Name == name {
			list = append(list, b.golden(g))
		}
	}
	return list, nil
}

// Get returns one golden; without a version the current one.
func (b *Builder) Get(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	g, err := b.find(ctx, caller, r)
	if err != nil {
		return api.Golden{}, fmt.Errorf("get golden %s: %w", r, err)
	}
	return b.golden(g), nil
}

// Promote makes ref, which has a version, the current one of its name.
func (b *Builder) Promote(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	if r.Version == 0 {
		return api.Golden{}, snapshot.WithHint(
			fmt.Errorf("promote golden %s: no version given: %w", r, errdefs.ErrInvalidArgument),
			"say which version: "+r.Name+":1")
	}
	return b.promote(ctx, caller, r)
}

func (b *Builder) promote(ctx context.Context, caller access.Caller, r snapshot.Ref) (api.Golden, error) {
	g, err := b.writable(ctx, caller, r)
	if err != nil {
		return api.Golden{}, fmt.Errorf("promote golden %s: %w", r, err)
	}
	if err := b.Store.Promote(ctx, r); err != nil {
		return api.Golden{}, fmt.Errorf("promote golden %s: %w", r, err)
	}
	b.Logger.InfoContext(ctx, "golden promoted", "golden", r.String())
	b.emit(caller, api.EventGoldenChanged, g, "current")
	return b.Get(ctx, caller, r.String())
}

// Verify reads a golden whole and compares it with the digest of what was built.
func (b *Builder) Verify(ctx context.Context, caller access.Caller, ref string) (api.Golden, error) {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return api.Golden{}, err
	}
	g, err := b.find(ctx, caller, r)
	if err != nil {
		return api.Golden{}, err
	}
	return b.golden(g), b.Store.VerifyDigest(ctx, g.Ref())
}

// Rollback makes the next older version that exists the current one.
// FailedPrecondition if there is none.
func (b *Builder) Rollback(ctx context.Context, caller access.Caller, name string) (api.Golden, error) {
	if err := snapshot.ValidateName(name); err != nil {
		return api.Golden{}, err
	}
	current, err := b.find(ctx, caller, snapshot.Ref{Name: name})
	if err != nil {
		return api.Golden{}, fmt.Errorf("roll back golden %s: %w", name, err)
	}
	all, err := b.goldens(ctx, caller)
	if err != nil {
		return api.Golden{}, fmt.Errorf("roll back golden %s: %w", name, err)
	}
	older := 0
	for _, g := range all {
		if g.Name == name && g.Version < current.Version {
			older = max(older, g.Version)
		}
	}
	if older == 0 {
		return api.Golden{}, snapshot.WithHint(
			fmt.Errorf("roll back golden %s: no version older than %d: %w", name, current.Version, errdefs.ErrFailedPrecondition),
			"'ctrsnap golden history "+name+"' lists the versions")
	}
	b.Logger.InfoContext(ctx, "golden rolls back", "golden", name, "from", current.Version, "to", older)
	return b.promote(ctx, caller, snapshot.Ref{Name: name, Version: older})
}

// Remove removes one version: "shop:3", "shop:current"; or all: "shop".
func (b *Builder) Remove(ctx context.Context, caller access.Caller, ref string) error {
	r, err := snapshot.ParseRef(ref)
	if err != nil {
		return err
	}
	gone, err := b.writable(ctx, caller, r)
	if err != nil {
		return fmt.Errorf("remove golden %s: %w", r, err)
	}
	// A Ref without version means the current one to ParseRef, but all of them
	// to RemoveGolden.
	if r.Version == 0 && strings.Contains(ref, ":") {
		g, err := b.Store.Golden(ctx, r)
		if err != nil {
			return fmt.Errorf("remove golden %s: %w", ref, err)
		}
		r = g.Ref()
	}
	if err := b.Drain(ctx); err != nil {
		return fmt.Errorf("remove golden %s: %w", r, err)
	}
	if err := b.Store.RemoveGolden(ctx, r); err != nil {
		return err
	}
	b.Logger.InfoContext(ctx, "golden removed", "golden", r.String())
	gone.Version = r.Version
	b.emit(caller, api.EventGoldenRemoved, gone, "")
	return nil
}

// golden is what a user sees of g; State, which holds secrets, stays here.
func (b *Builder) golden(g snapshot.Golden) api.Golden {
	a := api.Golden{
		Schema:        api.Schema,
		Name:          g.Name,
		Version:       g.Version,
		Current:       g.Current,
		Engine:        g.Engine,
		EngineVersion: g.EngineVersion,
		Key:           g.Key,
		Parent:        g.Parent,
		Base:          api.Base{Kind: g.Base.Kind, Ref: g.Base.Ref, Digest: g.Base.Digest},
		Builder:       g.Builder,
		CreatedAt:     g.Created,
		BuildSeconds:  g.BuildSeconds,
		SizeBytes:     g.Size,
		Digest:        g.Digest,
		Clones:        b.Live(g.Ref()),
		Settings:      g.Settings,
		Owner:         b.userName(g.Access.Owner),
		Group:         groupName(g.Access.Group),
		Mode:          fmt.Sprintf("%04o", g.Access.Mode),
		DamagedAt:     g.DamagedAt,
	}
	for _, s := range g.Sources {
		a.Sources = append(a.Sources, api.Source(s))
	}
	return a
}
