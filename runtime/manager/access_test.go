package manager

import (
	"context"
	"io"
	"net/netip"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Users for tests of who may do what. No uid is that of whoever runs the test.
var (
	ann   = access.User("ann", 70001, 70001)
	bob   = access.User("bob", 70002, 70002, 70009)
	admin = access.User("admin", 70003, 70003).AsAdmin()
)

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
	resp, err := m.Create(t.Context(), ann, ask)
	if err != nil {
		t.Fatal(err)
	}
	hers := resp.Clones[0]
	for _, id := range []string{hers.ID, hers.ID[:6], "pr"} {
		ctx := t.Context()
		verbs := map[string]func() error{
			"get":    func() error { _, err := m.Get(ctx, bob, id); return err },
			"remove": func() error { return m.Remove(ctx, bob, id, false) },
			"extend": func() error {
				_, err := m.Extend(ctx, bob, id, api.ExtendRequest{TTL: minutes(1)})
				return err
			},
			"restart": func() error { _, err := m.Restart(ctx, bob, id); return err },
			"logs":    func() error { return m.Logs(ctx, bob, id, -1, false, io.Discard) },
			"client":  func() error { _, err := m.Client(ctx, bob, id, nil); return err },
			"exec": func() error {
				_, err := m.Exec(ctx, bob, id, api.ExecRequest{Args: []string{"id"}}, runtime.Stdio{}, nil)
				return err
			},
			"interfaces": func() error { _, err := m.Interfaces(ctx, bob, id); return err },
			"hold":       func() error { return m.Hold(ctx, bob, resp.LeaseID, func() { t.Error("held") }) },
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
	if list, err := m.List(t.Context(), bob, nil); err != nil || len(list) != 0 {
		t.Errorf("bob lists %v, %v", list, err)
	}
	resp, err = m.Create(t.Context(), bob, api.CloneRequest{Golden: "shop", Name: "pr", IfExists: api.IfExistsReuse})
	if err != nil || !resp.Clones[0].Created || resp.Clones[0].ID == hers.ID {
		t.Fatalf("bob's own: %+v, %v", resp, err)
	}
	for who, want := range map[*access.Caller]string{&ann: hers.ID, &bob: resp.Clones[0].ID} {
		if got, err := m.Get(t.Context(), *who, "pr"); err != nil || got.ID != want {
			t.Errorf("%s finds %s, %v", who.Name, got.ID, err)
		}
	}
	if _, err := m.Get(t.Context(), admin, "pr"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name of two: %v", err)
	}
	if list, _ := m.List(t.Context(), admin, nil); len(list) != 2 {
		t.Errorf("the administrator lists %d", len(list))
	}
	if err := m.Remove(t.Context(), admin, hers.ID, false); err != nil {
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
		if _, err := m.Create(t.Context(), who, api.CloneRequest{Golden: "shop"}); err != nil {
			t.Errorf("%s: %v", who.Name, err)
		}
	}
	_, err := m.Create(t.Context(), eve, api.CloneRequest{Golden: "shop"})
	_, none := m.Create(t.Context(), eve, api.CloneRequest{Golden: "ship"})
	if !errdefs.IsNotFound(err) || !errdefs.IsNotFound(none) {
		t.Errorf("a stranger is told %v, and of one that is not there %v", err, none)
	}
	size := 1
	if _, err := m.SetPool(t.Context(), bob, "shop", api.PoolRequest{Size: &size}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a reader sets the pool: %v", err)
	}
	if _, err := m.SetPool(t.Context(), eve, "shop", api.PoolRequest{Size: &size}); !errdefs.IsNotFound(err) {
		t.Errorf("a stranger sets the pool: %v", err)
	}
}

// TestNobody: the zero Caller gets nothing by any verb, where the daemon itself gets something.
func TestNobody(t *testing.T) {
	w := newWorld(t)
	opts := w.options()
	opts.Interfaces = &fakeInterfaces{}
	opts.Pool = Pool{Size: 1, Sizes: &fakeSizes{sizes: map[string]int{}}}
	m := New(opts)
	t.Cleanup(func() { m.Close(context.Background()) })
	if _, err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.RefreshPool(t.Context()); err != nil {
		t.Fatal(err)
	}
	resp := create(t, m, api.CloneRequest{Name: "pr", Lease: api.LeaseConnection})
	id := resp.Clones[0].ID
	w.task(id).exec = func(runtime.Process, <-chan runtime.WindowSize) int { return 0 }
	if _, err := m.Attach(t.Context(), access.Daemon, id, request); err != nil {
		t.Fatal(err)
	}
	none := func(n int, err error) error {
		if err == nil && n == 0 {
			return errdefs.ErrNotFound
		}
		return err
	}
	ctx, size := t.Context(), 1
	verbs := map[string]func(access.Caller) error{
		"Create": func(c access.Caller) error {
			_, err := m.Create(ctx, c, api.CloneRequest{Golden: "shop"})
			return err
		},
		"Get":  func(c access.Caller) error { _, err := m.Get(ctx, c, id); return err },
		"List": func(c access.Caller) error { l, err := m.List(ctx, c, nil); return none(len(l), err) },
		"Peers": func(c access.Caller) error {
			_, err := m.Peers(ctx, c, netip.MustParseAddr("10.0.0.7"))
			return err
		},
		"Restart": func(c access.Caller) error { _, err := m.Restart(ctx, c, id); return err },
		"Extend": func(c access.Caller) error {
			_, err := m.Extend(ctx, c, id, api.ExtendRequest{TTL: minutes(1)})
			return err
		},
		"Hold": func(c access.Caller) error {
			ctx, cancel := context.WithCancel(ctx)
			return m.Hold(ctx, c, resp.LeaseID, cancel)
		},
		"Logs":   func(c access.Caller) error { return m.Logs(ctx, c, id, -1, false, io.Discard) },
		"Client": func(c access.Caller) error { _, err := m.Client(ctx, c, id, nil); return err },
		"Exec": func(c access.Caller) error {
			_, err := m.Exec(ctx, c, id, api.ExecRequest{Args: []string{"id"}}, runtime.Stdio{}, nil)
			return err
		},
		"Interfaces": func(c access.Caller) error { _, err := m.Interfaces(ctx, c, id); return err },
		"Attach":     func(c access.Caller) error { _, err := m.Attach(ctx, c, id, request); return err },
		"Detach":     func(c access.Caller) error { return m.Detach(ctx, c, id, "eth1") },
		"Pools":      func(c access.Caller) error { l, err := m.Pools(ctx, c); return none(len(l), err) },
		"SetPool": func(c access.Caller) error {
			_, err := m.SetPool(ctx, c, "shop", api.PoolRequest{Size: &size})
			return err
		},
		"Stats":  func(c access.Caller) error { _, err := m.Stats(ctx, c); return err },
		"Remove": func(c access.Caller) error { return m.Remove(ctx, c, id, true) }, // see below: the last
	}
	for i := range reflect.TypeFor[*Manager]().NumMethod() {
		verb := reflect.TypeFor[*Manager]().Method(i)
		for n := range verb.Type.NumIn() {
			if verb.Type.In(n) == reflect.TypeFor[access.Caller]() && verbs[verb.Name] == nil {
				t.Errorf("%s takes a caller: try it with nobody", verb.Name)
			}
		}
	}
	refused := func(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsPermissionDenied(err) }
	for verb, try := range verbs {
		if err := try(access.Caller{}); !refused(err) {
			t.Errorf("%s by nobody: %v", verb, err)
		}
	}
	remove, hold := verbs["Remove"], verbs["Hold"] // the clone goes with either
	delete(verbs, "Remove")
	delete(verbs, "Hold")
	for verb, try := range verbs {
		if err := try(access.Daemon); refused(err) {
			t.Errorf("%s by the daemon: %v", verb, err)
		}
	}
	if err := remove(access.Daemon); err != nil {
		t.Errorf("Remove by the daemon: %v", err)
	}
	if err := hold(access.Daemon); refused(err) {
		t.Errorf("Hold by the daemon: %v", err)
	}
}

// TestPoolWithinQuota: whoever may have two clones has no more kept ready, by one golden or by several; an
// administrator may.
func TestPoolWithinQuota(t *testing.T) {
	w := newWorld(t)
	w.pool = Pool{Sizes: &fakeSizes{sizes: map[string]int{}}}
	w.limits.User = quota.Bounds{Clones: 2}
	for _, name := range []string{"shop", "second"} {
		w.goldens[name] = []snapshot.Golden{{Name: name, Version: 1, Description: snapshot.Description{Engine: "fake"}, Access: snapshot.Access{Owner: ann.UID(), Group: 70009, Mode: 0o664}}}
	}
	m, _ := w.manager(t)
	set := func(who access.Caller, name string, size int) error {
		_, err := m.SetPool(t.Context(), who, name, api.PoolRequest{Size: &size})
		return err
	}
	for _, tt := range []struct {
		who  access.Caller
		name string
		size int
		is   func(error) bool
	}{
		{ann, "shop", 12, errdefs.IsResourceExhausted},
		{bob, "shop", 12, errdefs.IsResourceExhausted}, // of the group that may write: it is ann's quota
		{ann, "shop", 3, errdefs.IsResourceExhausted},
		{ann, "shop", 2, nil},
		{ann, "second", 1, errdefs.IsResourceExhausted},
		{ann, "shop", 1, nil},
		{ann, "second", 1, nil},
		{bob, "second", 2, errdefs.IsResourceExhausted},
		{admin, "shop", 12, nil},
		{ann, "second", 1, errdefs.IsResourceExhausted},
		{ann, "second", 0, nil},
		{ann, "shop", 0, nil},
	} {
		if err := set(tt.who, tt.name, tt.size); tt.is == nil && err != nil || tt.is != nil && !tt.is(err) {
			t.Errorf("%s sets the pool of %s to %d: %v", tt.who.Name, tt.name, tt.size, err)
		}
	}
}
