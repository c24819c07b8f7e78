package host

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/engine/catalog"
	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// TestEngines: administrators add engines, which everybody sees, and remove those that no golden needs.
func TestEngines(t *testing.T) {
	c, _, err := catalog.Open(t.TempDir(), postgres.New())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../engine/described/examples/etcd.toml")
	if err != nil {
		t.Fatal(err)
	}
	goldens := []snapshot.Golden{
		{Description: snapshot.Description{Engine: "postgres"}, Access: snapshot.Access{Owner: 1001, Mode: 0o644}},
		{Description: snapshot.Description{Engine: "etcd"}, Access: snapshot.Access{Owner: 1000, Mode: 0o600}},
		{Description: snapshot.Description{Engine: "etcd"}, Access: snapshot.Access{Owner: 1001, Mode: 0o600}},
	}
	e := &Engines{Catalog: c, Log: slog.New(slog.DiscardHandler), Goldens: func(context.Context) ([]snapshot.Golden, error) { return goldens, nil }}
	ann, request := access.User("ann", 1000, 1000), api.EngineRequest{Description: string(text)}
	if _, err := e.AddEngine(t.Context(), ann, request); !errdefs.IsPermissionDenied(err) {
		t.Errorf("ann adds an engine: %v", err)
	}
	added, err := e.AddEngine(t.Context(), ann.AsAdmin(), request)
	if err != nil || added.Name != "etcd" || added.BuiltIn || added.Digest == "" || added.AddedAt == nil || added.Description != string(text) || added.Goldens != 2 {
		t.Errorf("added: %+v, %v", added, err)
	}
	if d, err := e.Engine(t.Context(), ann, "default"); err != nil || d.Name != "postgres" || !d.BuiltIn || !d.Settings || d.PIDFile == "" || d.Goldens != 1 {
		t.Errorf("the default one: %+v, %v", d, err)
	}
	all, err := e.Engines(t.Context(), ann)
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
		if e.Description != "" {
			t.Errorf("the list has the description of %s", e.Name)
		}
		if e.Goldens != 1 { // what others have hidden is not told by a number
			t.Errorf("%d goldens of %s are ann's or everybody's", e.Goldens, e.Name)
		}
	}
	if diff := cmp.Diff([]string{"postgres", "etcd"}, names); diff != "" || err != nil { // built-in ones first
		t.Error(diff, err)
	}
	for _, tt := range []struct {
		caller access.Caller
		name   string
		is     func(error) bool
	}{
		{ann, "etcd", errdefs.IsPermissionDenied},
		{access.Caller{}, "etcd", errdefs.IsPermissionDenied},
		{access.Daemon, "etcd", errdefs.IsFailedPrecondition},
	} {
		if err := e.RemoveEngine(t.Context(), tt.caller, tt.name); !tt.is(err) {
			t.Errorf("%q removes %s: %v", tt.caller.Name, tt.name, err)
		}
	}
	goldens = goldens[:1]
	if err := e.RemoveEngine(t.Context(), access.Daemon, "etcd"); err != nil {
		t.Fatal(err)
	}
	if d, err := e.Engine(t.Context(), access.Daemon, "etcd"); !errdefs.IsNotFound(err) {
		t.Errorf("after it was removed: %+v, %v", d, err)
	}
}
