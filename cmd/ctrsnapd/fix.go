package main

import (
	"context"
	"fmt"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// Fix does what can be done without harm to anybody, and looks again. What it has mended
// is told beside what is.
func (d *daemon) Fix(ctx context.Context) (api.Doctor, error) {
	before := d.Doctor(ctx) // names are listened for again by that
	done := []api.Check{d.fixLeftovers(ctx), d.fixStorage(ctx), d.fixPool(ctx)}
	after := d.Doctor(ctx)
	was := map[string]string{}
	for _, c := range before.Checks {
		was[c.Name] = c.Status
	}
	for i, c := range after.Checks {
		if c.Status == "ok" && was[c.Name] != "" && was[c.Name] != "ok" {
			after.Checks[i].Detail += " (mended)"
		}
	}
	after.Checks = append(after.Checks, done...)
	return after, nil
}

// fixStorage lets the image grow to the size of the configuration, and gives what goldens and
// clones that are gone have left free in it back to the host.
func (d *daemon) fixStorage(ctx context.Context) api.Check {
	c := api.Check{Name: "fix storage", Status: "ok"}
	info, err := d.storage.Info()
	if err == nil && info.Image == "" {
		c.Detail = "nothing to do: it is no image"
		return c
	}
	if size := int64(d.cfg.Storage.Size); err == nil && size > info.ImageSize {
		err = d.storage.Grow(ctx, size)
	}
	var freed int64
	if err == nil {
		freed, err = d.storage.Trim()
	}
	c.Detail = fmt.Sprintf("%d MiB given back to the host", freed>>20)
	if err != nil {
		c.Status, c.Detail = "warning", err.Error()
	}
	return c
}

// fixLeftovers removes what nobody has.
func (d *daemon) fixLeftovers(ctx context.Context) api.Check {
	c := api.Check{Name: "fix leftovers", Status: "ok"}
	removed := 0
	for _, k := range d.GC(ctx, true).Kinds {
		removed += len(k.Orphans)
		for _, text := range k.Errors {
			c.Status, c.Why = "warning", text
		}
	}
	c.Detail = fmt.Sprintf("%d found that nobody has", removed)
	return c
}

// fixPool looks anew at which goldens there are.
func (d *daemon) fixPool(ctx context.Context) api.Check {
	if err := d.manager.RefreshPool(ctx); err != nil {
		return api.Check{Name: "fix pool", Status: "warning", Detail: err.Error()}
	}
	return api.Check{Name: "fix pool", Status: "ok", Detail: "it knows all goldens"}
}
