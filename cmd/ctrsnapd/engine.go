package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
	"github.com/ctrsnap/ctrsnap/runtime/build"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// engines serves the catalog.
type engines struct{ *daemon }

var _ server.Engines = engines{}

// Engines lists the engines, built-in ones first.
func (e engines) Engines(ctx context.Context) ([]api.Engine, error) {
	var all []api.Engine
	for _, name := range e.engines.Names() {
		d, err := e.Engine(ctx, name)
		if err != nil {
			return nil, err
		}
		d.Description = ""
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b api.Engine) int {
		if a.BuiltIn == b.BuiltIn {
			return 0
		} else if a.BuiltIn {
			return -1
		}
		return 1
	})
	return all, nil
}

// Engine returns one engine; "" is the default one.
func (e engines) Engine(ctx context.Context, name string) (api.Engine, error) {
	if name == "default" {
		name = build.DefaultEngine
	}
	engine, err := e.engines.Engine(name)
	if err != nil {
		return api.Engine{}, err
	}
	a := api.Engine{Name: name, BuiltIn: true}
	if added, ok := e.engines.Added(name); ok {
		a.BuiltIn, a.Digest, a.AddedAt, a.Description = false, added.Engine.Digest(), &added.Added, added.Text
	}
	if d, ok := engine.(runtime.Describer); ok {
		i := d.Describe()
		a.Scripts, a.DumpDir, a.DataDir, a.LinkedDirs, a.EmptyDirs = i.Scripts, i.DumpDir, i.DataDir, i.LinkedDirs, i.EmptyDirs
		a.PIDFile, a.Processes, a.PasswordEnv, a.Settings = i.PIDFile, i.Processes, i.PasswordEnv, i.Settings
	}
	a.Goldens, err = e.goldens(ctx, name)
	return a, err
}

func (e engines) goldens(ctx context.Context, engine string) (n int, err error) {
	all, err := e.store.Goldens(ctx)
	for _, g := range all {
		if g.Engine == engine {
			n++
		}
	}
	return n, err
}

// AddEngine keeps a description. What it says runs in containers, but it
// is the same for all users: only administrators may say it.
func (e engines) AddEngine(ctx context.Context, caller server.Caller, req api.EngineRequest) (api.Engine, error) {
	if err := adminOnly(caller, "add an engine"); err != nil {
		return api.Engine{}, err
	}
	added, err := e.engines.Add([]byte(req.Description))
	if err != nil {
		return api.Engine{}, err
	}
	e.log.InfoContext(ctx, "engine added", "engine", added.Engine.Name(), "digest", added.Engine.Digest())
	return e.Engine(ctx, added.Engine.Name())
}

// RemoveEngine forgets a description that no golden needs.
func (e engines) RemoveEngine(ctx context.Context, caller server.Caller, name string) error {
	if err := adminOnly(caller, "remove an engine"); err != nil {
		return err
	}
	n, err := e.goldens(ctx, name)
	if err != nil {
		return err
	}
	if n > 0 {
		return snapshot.WithHint(fmt.Errorf("remove engine %s: %d goldens are of it: %w", name, n, errdefs.ErrFailedPrecondition),
			"'ctrsnap golden ls' lists them, 'ctrsnap golden rm' removes them")
	}
	if err := e.engines.Remove(name); err != nil {
		return err
	}
	e.log.InfoContext(ctx, "engine removed", "engine", name)
	return nil
}

func adminOnly(caller server.Caller, what string) error {
	if caller.IsAdmin() {
		return nil
	}
	return snapshot.WithHint(fmt.Errorf("%s: not allowed: %w", what, errdefs.ErrPermissionDenied), "an engine is for all users of this daemon: ask an administrator")
}
