package manager

import (
	"context"
	"io"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Users for tests of who may do what. No uid is that of whoever runs the test.
var (
	ann   = access.User("ann", 70001, 70001)
	bob   = access.User("bob", 70002, 70002, 70009)
	admin = access.User("admin", 70003, 70003).AsAdmin()
)

func as(t testing.TB, who server.Caller) context.Context {
	t.Helper()
	return server.WithCaller(t.Context(), who)
}

// TestOthersClones: whose clone it is not, he finds nothing of by any verb, and his
// own of the same name is another one.
func TestOthersClones(t *testing.T) {
	if !isRoot() {
		t.Skip("needs root: directories are given away")
	}
	w := newWorld(t)
	w.pool = Pool{}
	m, _ := w.manager(t)
	ask := api.CloneRequest{Golden: "shop", Name: "pr", Lease: api.LeaseConnection}
	resp, err := m.Create(as(t, ann), ann, ask)
	if err != nil {
		t.Fatal(err)
	}
	hers := resp.Clones[0]
	for _, id := range []string{hers.ID, hers.ID[:6], "pr"} {
		ctx := as(t, bob)
		verbs := map[string]func() error{
			"get":    func() error { _, err := m.Get(ctx, id); return err },
			"remove": func() error { return m.Remove(ctx, id, false) },
			"extend": func() error { _, err := m.Extend(ctx, id, api.ExtendRequest{TTL: minutes(1)}); return err },
			"logs":   func() error { return m.Logs(ctx, id, -1, false, io.Discard) },
			"client": func() error { _, err := m.Client(ctx, id, nil); return err },
			"exec": func() error {
				_, err := m.Exec(ctx, id, api.ExecRequest{Args: []string{"id"}}, runtime.Stdio{}, nil)
				return err
			},
			"interfaces": func() error { _, err := m.Interfaces(ctx, id); return err },
			"hold":       func() error { return m.Hold(ctx, resp.LeaseID, func() { t.Error("held") }) },
			"join": func() error {
				_, err := m.Create(ctx, bob, api.CloneRequest{Golden: "shop", LeaseID: resp.LeaseID})
				return err
			},
		}
		for verb, try := range verbs {
			if err := try(); !errdefs.IsNotFound(err) {
				t.Errorf("%s of %s: %v", verb, id, err)
			}
		}
	}
	if list, err := m.List(as(t, bob), nil); err != nil || len(list) != 0 {
		t.Errorf("bob lists %v, %v", list, err)
	}
	resp, err = m.Create(as(t, bob), bob, api.CloneRequest{Golden: "shop", Name: "pr", IfExists: api.IfExistsReuse})
	if err != nil || !resp.Clones[0].Created || resp.Clones[0].ID == hers.ID {
		t.Fatalf("bob's own: %+v, %v", resp, err)
	}
	for who, want := range map[*server.Caller]string{&ann: hers.ID, &bob: resp.Clones[0].ID} {
		if got, err := m.Get(as(t, *who), "pr"); err != nil || got.ID != want {
			t.Errorf("%s finds %s, %v", who.Name, got.ID, err)
		}
	}
	if _, err := m.Get(as(t, admin), "pr"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name of two: %v", err)
	}
	if list, _ := m.List(as(t, admin), nil); len(list) != 2 {
		t.Errorf("the administrator lists %d", len(list))
	}
	if err := m.Remove(as(t, admin), hers.ID, false); err != nil {
		t.Error(err)
	}
}

// TestOthersGoldens: a golden is cloned by those who may read it, and its pool set by
// those who may write.
func TestOthersGoldens(t *testing.T) {
	if !isRoot() {
		t.Skip("needs root: directories are given away")
	}
	w := newWorld(t)
	for i := range w.goldens["shop"] {
		w.goldens["shop"][i].Access = snapshot.Access{Owner: ann.UID(), Group: 70009, Mode: 0o640}
	}
	m, _ := w.manager(t)
	eve := access.User("", 70004, 70004)
	for _, who := range []access.Caller{ann, bob, admin} {
		if _, err := m.Create(as(t, who), who, api.CloneRequest{Golden: "shop"}); err != nil {
			t.Errorf("%s: %v", who.Name, err)
		}
	}
	_, err := m.Create(as(t, eve), eve, api.CloneRequest{Golden: "shop"})
	_, none := m.Create(as(t, eve), eve, api.CloneRequest{Golden: "ship"})
	if !errdefs.IsNotFound(err) || !errdefs.IsNotFound(none) {
		t.Errorf("a stranger is told %v, and of one that is not there %v", err, none)
	}
	size := 1
	if _, err := m.SetPool(as(t, bob), "shop", api.PoolRequest{Size: &size}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a reader sets the pool: %v", err)
	}
	if _, err := m.SetPool(as(t, eve), "shop", api.PoolRequest{Size: &size}); !errdefs.IsNotFound(err) {
		t.Errorf("a stranger sets the pool: %v", err)
	}
}
