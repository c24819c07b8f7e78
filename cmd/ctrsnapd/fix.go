package main

import (
	"context"
	"errors"
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
	before, err := d.storage.Info()
	if err == nil && before.Image == "" {
		c.Detail = "nothing to do: it is no image"
		return c
	}
	if size := int64(d.cfg.Storage.Size); err == nil && size > before.ImageSize {
		err = d.storage.Grow(ctx, size)
	}
	if err == nil {
		_, err = d.storage.Trim()
	}
	after, infoErr := d.storage.Info()
	if err = errors.Join(err, infoErr); err != nil {
		c.Status, c.Detail = "warning", err.Error()
		return c
	}
	c.Detail = imageChange(before.ImageUsed, after.ImageUsed)
	return c
}

// imageChange says what an image takes of the host's disk. Clones that write meanwhile take
// more of it.
func imageChange(before, after int64) string {
	text := fmt.Sprintf("the image takes %d MiB of the host's disk", after>>20)
	if before>>20 > after>>20 {
		text += fmt.Sprintf(", %d MiB less than before", (before-after)>>20)
	}
	return text
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
