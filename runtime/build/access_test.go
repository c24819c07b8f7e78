package build

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/goldens"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// TestOthersGoldens: the owner and those that the mode lets may read and change a
// golden; to others it is not there, but that its name is taken.
func TestOthersGoldens(t *testing.T) {
	w := newWorld(t)
	bob := access.User("bob", 1001, 1001, 1000)
	eve := access.User("eve", 1002, 1002)
	root := access.User("", 0)
	build := func(who access.Caller, mode, key string) (api.Golden, bool, error) {
		r := shop()
		r.Mode, r.Key = mode, key
		return w.Build(t.Context(), who, r.BuildRequest, r.next, r.event)
	}
	g, _, err := build(ada, "0640", "k")
	if err != nil || g.Mode != "0640" {
		t.Fatalf("%+v, %v", g, err)
	}
	if list, err := w.Goldens.List(t.Context(), bob, ""); err != nil || len(list) != 1 {
		t.Errorf("the group lists %v, %v", list, err)
	}
	if list, err := w.Goldens.List(t.Context(), eve, ""); err != nil || len(list) != 0 {
		t.Errorf("others list %v, %v", list, err)
	}
	verbs := map[string]func(who access.Caller) error{
		"promote":  func(who access.Caller) error { _, err := w.Goldens.Promote(t.Context(), who, "shop:1"); return err },
		"rollback": func(who access.Caller) error { _, err := w.Goldens.Rollback(t.Context(), who, "shop"); return err },
		"remove":   func(who access.Caller) error { return w.Goldens.Remove(t.Context(), who, "shop:1") },
		"all":      func(who access.Caller) error { return w.Goldens.Remove(t.Context(), who, "shop") },
		"access": func(who access.Caller) error {
			_, err := w.Goldens.SetAccess(t.Context(), who, "shop", api.AccessRequest{Mode: "0666"})
			return err
		},
	}
	if _, _, err := build(ada, "", "k2"); err != nil { // something to roll back to
		t.Fatal(err)
	}
	for verb, try := range verbs {
		if err := try(bob); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by the group: %v", verb, err)
		}
		if err := try(eve); !errdefs.IsNotFound(err) {
			t.Errorf("%s by others: %v", verb, err)
		}
	}
	for verb, try := range map[string]func(who access.Caller) error{
		"get":    func(who access.Caller) error { _, err := w.Goldens.Get(t.Context(), who, "shop"); return err },
		"verify": func(who access.Caller) error { _, err := w.Goldens.Verify(t.Context(), who, "shop:1"); return err },
	} {
		if err := try(bob); err != nil {
			t.Errorf("%s by the group: %v", verb, err)
		}
		if err := try(eve); !errdefs.IsNotFound(err) {
			t.Errorf("%s by others: %v", verb, err)
		}
	}
	for _, who := range []access.Caller{bob, eve} {
		if _, _, err := build(who, "", "other"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("built by %s: %v", who.Name, err)
		}
	}
	if _, existed, err := build(bob, "", "k2"); existed || !errdefs.IsPermissionDenied(err) {
		t.Errorf("another's key: %v, %v", existed, err)
	}
	if _, existed, err := build(eve, "", "k2"); existed || !errdefs.IsPermissionDenied(err) {
		t.Errorf("the key of what is not there: %v, %v", existed, err)
	}
	child := &request{BuildRequest: api.BuildRequest{Name: "child", Parent: "shop"}}
	if _, _, err := w.Build(t.Context(), eve, child.BuildRequest, child.next, child.event); !errdefs.IsNotFound(err) {
		t.Errorf("on top of what is not hers: %v", err)
	}

	if _, err := w.Goldens.SetAccess(t.Context(), ada, "shop", api.AccessRequest{Owner: "1001"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("given away: %v", err)
	}
	if _, err := w.Goldens.SetAccess(t.Context(), ada, "shop", api.AccessRequest{Group: "1001"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a group that she is not in: %v", err)
	}
	if _, err := w.Goldens.SetAccess(t.Context(), ada, "shop", api.AccessRequest{Mode: "0777"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a mode that is none: %v", err)
	}
	if g, err := w.Goldens.SetAccess(t.Context(), ada, "shop", api.AccessRequest{Mode: "0660"}); err != nil || g.Mode != "0660" {
		t.Errorf("%+v, %v", g, err)
	}
	if g, _, err := build(bob, "0600", "bob's"); err != nil || g.Mode != "0660" {
		t.Errorf("by the group that may: %+v, %v", g, err)
	}
	if _, err := w.Goldens.SetAccess(t.Context(), root, "shop", api.AccessRequest{Owner: "1002", Group: "1002", Mode: "0600"}); err != nil {
		t.Error(err)
	}
	if _, err := w.Goldens.Get(t.Context(), ada, "shop"); !errdefs.IsNotFound(err) {
		t.Errorf("it was hers: %v", err)
	}
	if err := w.Goldens.Remove(t.Context(), eve, "shop"); err != nil {
		t.Errorf("the new owner's: %v", err)
	}
}

// TestOthersAnswer answers another user's command, and guesses: the build goes on waiting for its
// owner, who knows the token.
func TestOthersAnswer(t *testing.T) {
	w := newWorld(t)
	w.engine = everything
	r := full(w)
	bob := access.User("bob", 1001, ada.Group(), ada.Group())
	r.on = func(e api.BuildEvent) {
		if e.Type != api.EventExec {
			return
		}
		build := r.events[0].BuildID
		answer := func(who access.Caller, build, token string) error {
			return w.Answer(t.Context(), who, build, api.HostResult{Output: "nothing to migrate", Token: token})
		}
		for name, err := range map[string]error{
			"of the group, with the token":  answer(bob, build, e.Token),
			"nobody, with the token":        answer(access.Caller{}, build, e.Token),
			"of the group, guesses the id":  answer(bob, kind.Build.New(), e.Token),
			"the owner, with no such build": answer(ada, kind.Build.New(), e.Token),
		} {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, token := range map[string]string{"no": "", "another": kind.Build.New(), "half a": e.Token[:len(e.Token)/2]} {
			if err := answer(ada, build, token); !errdefs.IsPermissionDenied(err) {
				t.Errorf("the owner's user, %s token: %v", name, err)
			}
			if err := answer(access.User("", 0), build, token); !errdefs.IsPermissionDenied(err) {
				t.Errorf("an administrator, %s token: %v", name, err)
			}
		}
		if err := w.Answer(t.Context(), ada, build, api.HostResult{Output: "migrated", Token: e.Token}); err != nil {
			t.Errorf("the owner: %v", err)
		}
		if err := answer(ada, build, e.Token); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("the owner, again: %v", err)
		}
	}
	if _, _, err := w.run(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	log := readLog(t, w, r)
	if !strings.Contains(log, "migrated") || strings.Contains(log, "nothing to migrate") {
		t.Errorf("the answer is not the owner's:\n%s", log)
	}
	for _, e := range r.events {
		if e.Token != "" && strings.Contains(log, e.Token) {
			t.Error("the token is in the log")
		}
	}
}

// TestNobody: the zero Caller gets nothing by any verb, where the daemon itself gets something.
func TestNobody(t *testing.T) {
	ctx := t.Context()
	none := func(n int, err error) error {
		if err == nil && n == 0 {
			return errdefs.ErrNotFound
		}
		return err
	}
	verbs := map[string]func(*world, access.Caller) error{
		"Prune": func(w *world, c access.Caller) error {
			list, err := w.Goldens.Prune(ctx, c, api.PruneRequest{Keep: 1})
			return none(len(list), err)
		},
		"Build": func(w *world, c access.Caller) error {
			r := shop()
			r.Name = "new"
			_, _, err := w.Build(ctx, c, r.BuildRequest, r.next, r.event)
			return err
		},
		"Get":      func(w *world, c access.Caller) error { _, err := w.Goldens.Get(ctx, c, "shop"); return err },
		"List":     func(w *world, c access.Caller) error { l, err := w.Goldens.List(ctx, c, ""); return none(len(l), err) },
		"Promote":  func(w *world, c access.Caller) error { _, err := w.Goldens.Promote(ctx, c, "shop:1"); return err },
		"Rollback": func(w *world, c access.Caller) error { _, err := w.Goldens.Rollback(ctx, c, "shop"); return err },
		"Verify":   func(w *world, c access.Caller) error { _, err := w.Goldens.Verify(ctx, c, "shop"); return err },
		"SetAccess": func(w *world, c access.Caller) error {
			_, err := w.Goldens.SetAccess(ctx, c, "shop", api.AccessRequest{Owner: "0"})
			return err
		},
		"MayAdd": func(w *world, c access.Caller) error { return w.Goldens.MayAdd(ctx, c, "shop") },
		"Add": func(w *world, c access.Caller) error {
			_, err := w.Goldens.Add(ctx, c, "shop", func() (snapshot.Golden, error) { return snapshot.Golden{Name: "shop"}, nil })
			return err
		},
		"Remove": func(w *world, c access.Caller) error { return w.Goldens.Remove(ctx, c, "shop") },
		"Answer": func(w *world, c access.Caller) (err error) {
			w.engine = everything
			r := full(w)
			r.Key = "" // it is built
			err = errors.New("nothing was asked")
			r.on = func(e api.BuildEvent) {
				if e.Type == api.EventExec {
					answer := api.HostResult{Token: e.Token}
					err = w.Answer(ctx, c, r.events[0].BuildID, answer)
					_ = w.Answer(ctx, ada, r.events[0].BuildID, answer) // if it waits still
				}
			}
			if _, _, err := w.run(ctx, r); err != nil {
				t.Error(err)
			}
			return err
		},
	}
	for _, of := range []reflect.Type{reflect.TypeFor[*Builder](), reflect.TypeFor[*goldens.Goldens]()} {
		for i := range of.NumMethod() {
			verb := of.Method(i)
			for n := range verb.Type.NumIn() {
				if verb.Type.In(n) == reflect.TypeFor[access.Caller]() && verbs[verb.Name] == nil {
					t.Errorf("%s takes a caller: try it with nobody", verb.Name)
				}
			}
		}
	}
	for verb, try := range verbs {
		w := newWorld(t)
		for _, key := range []string{"k1", "k2"} { // something to roll back to
			r := shop()
			r.Key, r.Mode = key, "0666"
			if _, _, err := w.run(ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		if err := try(w, access.Caller{}); !errdefs.IsNotFound(err) && !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by nobody: %v", verb, err)
		}
		if err := try(w, access.Daemon); err != nil {
			t.Errorf("%s by the daemon: %v", verb, err)
		}
	}
}

// TestCertificate: whoever comes by a certificate is in no group, and neither are their goldens.
func TestCertificate(t *testing.T) {
	w := newWorld(t)
	cert := access.User("cert:ann", 0xF0000000)
	r := shop()
	if _, _, err := w.Build(t.Context(), cert, r.BuildRequest, r.next, r.event); !errdefs.IsPermissionDenied(err) {
		t.Errorf("on files of the host: %v", err)
	}
	if _, _, err := w.Build(t.Context(), cert.AsAdmin(), r.BuildRequest, r.next, r.event); err != nil {
		t.Errorf("an administrator on files of the host: %v", err)
	}
	w = newWorld(t)
	r = shop()
	r.Mode, r.Image = "0660", "postgres:18"
	g, _, err := w.Build(t.Context(), cert, r.BuildRequest, r.next, r.event)
	if err != nil || g.Owner != "4026531840" || g.Group != "" {
		t.Fatalf("%+v, %v", g, err)
	}
	if _, err := w.Goldens.Get(t.Context(), access.User("operator", 1001, 1001, 0), "shop"); !errdefs.IsNotFound(err) {
		t.Errorf("a member of root's group: %v", err)
	}
	if _, err := w.Goldens.Get(t.Context(), access.User("cert:bob", 0xF0000001), "shop"); !errdefs.IsNotFound(err) {
		t.Errorf("another certificate: %v", err)
	}
	if g, err := w.Goldens.SetAccess(t.Context(), cert, "shop", api.AccessRequest{Mode: "0600"}); err != nil || g.Mode != "0600" || g.Group != "" {
		t.Errorf("the owner: %+v, %v", g, err)
	}
	if _, err := w.Goldens.SetAccess(t.Context(), cert, "shop", api.AccessRequest{Group: "0"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("root's group: %v", err)
	}
}

// TestWithoutUsers: where users of containers are the host's, only administrators build.
func TestWithoutUsers(t *testing.T) {
	w := newWorld(t)
	w.without = errors.New("the kernel is old")
	r := shop()
	_, _, err := w.Build(t.Context(), ada, r.BuildRequest, r.next, r.event)
	if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "the kernel is old") {
		t.Errorf("ada: %v", err)
	}
	if len(w.containers)+len(w.goldens) > 0 {
		t.Errorf("made all the same: %v, %v", w.containers, w.goldens)
	}
	if _, _, err := w.Build(t.Context(), ada.AsAdmin(), r.BuildRequest, r.next, r.event); err != nil {
		t.Errorf("an administrator: %v", err)
	}
}
