package host

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/build"
	"github.com/ctrsnap/ctrsnap/runtime/engine/catalog"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Engines serves a catalog of engines. It is safe for concurrent use.
type Engines struct {
	Catalog *catalog.Catalog
	Goldens func(context.Context) ([]snapshot.Golden, error) // all of them
	Log     *slog.Logger
}

// Engines lists the engines, built-in ones first.
func (e *Engines) Engines(ctx context.Context, caller access.Caller) ([]api.Engine, error) {
	if err := caller.CheckKnown("list engines"); err != nil {
		return nil, err
	}
	var all []api.Engine
	for _, name := range e.Catalog.Names() {
		d, err := e.Engine(ctx, caller, name)
		if err != nil {
			return nil, err
		}
		d.Description = ""
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b api.Engine) int {
		switch {
		case a.BuiltIn == b.BuiltIn:
			return 0
		case a.BuiltIn:
			return -1
		}
		return 1
	})
	return all, nil
}

// Engine returns one engine; "default" is the default one. It counts the goldens that the caller may know of.
func (e *Engines) Engine(ctx context.Context, caller access.Caller, name string) (api.Engine, error) {
	if err := caller.CheckKnown("show engine " + name); err != nil {
		return api.Engine{}, err
	}
	if name == "default" {
		name = build.DefaultEngine
	}
	engine, err := e.Catalog.Engine(name)
	if err != nil {
		return api.Engine{}, err
	}
	a := api.Engine{Name: name, BuiltIn: true}
	if added, ok := e.Catalog.Added(name); ok {
		a.BuiltIn, a.Digest, a.AddedAt, a.Description = false, added.Engine.Digest(), &added.Added, added.Text
	}
	if d, ok := engine.(runtime.Describer); ok {
		i := d.Describe()
		a.Scripts, a.DumpDir, a.DataDir, a.LinkedDirs, a.EmptyDirs, a.SkippedDirs = i.Scripts, i.DumpDir, i.DataDir, i.LinkedDirs, i.EmptyDirs, i.SkippedDirs
		a.PIDFile, a.Processes, a.PasswordEnv, a.Settings = i.PIDFile, i.Processes, i.PasswordEnv, i.Settings
	}
	a.Goldens, err = e.goldens(ctx, caller, name)
	return a, err
}

func (e *Engines) goldens(ctx context.Context, caller access.Caller, engine string) (n int, err error) {
	all, err := e.Goldens(ctx)
	for _, g := range all {
		if g.Engine == engine && caller.MayRead(g) {
			n++
		}
	}
	return n, err
}

// AddEngine keeps a description. What it says runs in containers, but it
// is the same for all users: only administrators may say it.
func (e *Engines) AddEngine(ctx context.Context, caller access.Caller, req api.EngineRequest) (api.Engine, error) {
	if err := caller.CheckAdmin("add engine"); err != nil {
		return api.Engine{}, err
	}
	added, err := e.Catalog.Add([]byte(req.Description))
	if err != nil {
		return api.Engine{}, err
	}
	e.Log.InfoContext(ctx, "engine added", "engine", added.Engine.Name(), "digest", added.Engine.Digest())
	return e.Engine(ctx, caller, added.Engine.Name())
}

// RemoveEngine forgets a description that no golden needs.
func (e *Engines) RemoveEngine(ctx context.Context, caller access.Caller, name string) error {
	if err := caller.CheckAdmin("remove engine " + name); err != nil {
		return err
	}
	n, err := e.goldens(ctx, access.Daemon, name)
	if err != nil {
		return err
	}
	if n > 0 {
		return snapshot.WithHint(fmt.Errorf("remove engine %s: %d goldens are of it: %w", name, n, errdefs.ErrFailedPrecondition),
			"'ctrsnap golden ls' lists them, 'ctrsnap golden rm' removes them")
	}
	if err := e.Catalog.Remove(name); err != nil {
		return err
	}
	e.Log.InfoContext(ctx, "engine removed", "engine", name)
	return nil
}
