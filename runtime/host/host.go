// Package host is what a daemon knows of its machine: what its clones depend on, what of that it can mend, and what
// clones, builds and shims have left there that nobody has.
//
// It knows no engine, network or storage in particular. Whoever knows one hands over a [Check] of it.
package host

import (
	"context"
	"errors"
	"log/slog"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/flight"
	"github.com/ctrsnap/ctrsnap/runtime/gc"
)

// Options are what a Host works with.
type Options struct {
	Version api.Version
	Checks  []Check // of the doctor, in its order
	Mends   []Check // what fix does between two looks: each says how it went
	// Kinds are the sorts of things that can be left behind, Owners the ids that somebody has: see [gc.Find].
	Kinds  []gc.Kind
	Owners func(context.Context) (map[string]bool, error)
	Log    *slog.Logger
}

// Host is the machine of a daemon. It is safe for concurrent use once Recover has returned.
type Host struct {
	opts   Options
	start  api.GCStart
	doctor flight.Group[api.Doctor]
}

// New returns a Host, which has done nothing yet.
func New(o Options) *Host { return &Host{opts: o} }

// Version says who this daemon is and what it understands.
func (h *Host) Version() api.Version { return h.opts.Version }

// Recover removes what nobody has when a daemon starts, adds that to what the start has found already, and keeps it
// for those who ask.
func (h *Host) Recover(ctx context.Context, found api.GCStart) {
	h.start = found
	h.start.Kinds = h.gc(ctx, true).Kinds
	s := h.start
	attrs := []any{"adopted", s.Adopted, "pool", s.Pool, "removed", s.Removed, "orphans", s.Orphans, "builds", s.Builds, "damaged", s.Goldens}
	for _, k := range s.Kinds {
		if len(k.Orphans) > 0 {
			attrs = append(attrs, k.Kind, k.Orphans)
		}
	}
	h.opts.Log.InfoContext(ctx, "recovered", attrs...)
}

// GC finds what nobody has, and removes it if remove says so. It names things of everybody: it is for administrators.
func (h *Host) GC(ctx context.Context, caller access.Caller, remove bool) (api.GC, error) {
	if err := caller.CheckAdmin("collect garbage"); err != nil {
		return api.GC{}, err
	}
	return h.gc(ctx, remove), nil
}

func (h *Host) gc(ctx context.Context, remove bool) api.GC {
	do := gc.Find
	if remove {
		do = gc.Remove
	}
	r := api.GC{Schema: api.Schema, Removed: remove, Start: h.start}
	for _, f := range do(ctx, h.opts.Kinds, h.opts.Owners) {
		r.Kinds = append(r.Kinds, describe(f))
		if f.Err != nil {
			h.opts.Log.ErrorContext(ctx, "collect garbage", "kind", f.Kind, "error", f.Err)
		}
	}
	return r
}

func describe(f gc.Found) api.GCKind {
	k := api.GCKind{Kind: f.Kind, Used: f.Used, Orphans: f.Orphans}
	if k.Orphans == nil {
		k.Orphans = []string{}
	}
	var joined interface{ Unwrap() []error }
	switch {
	case errors.As(f.Err, &joined):
		for _, err := range joined.Unwrap() {
			k.Errors = append(k.Errors, err.Error())
		}
	case f.Err != nil:
		k.Errors = []string{f.Err.Error()}
	}
	return k
}
