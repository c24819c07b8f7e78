package build

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
)

// TestOthersGoldens: the owner and those that the mode lets may read and change a
// golden; to others it is not there, but that its name is taken.
func TestOthersGoldens(t *testing.T) {
	w := newWorld(t)
	bob := access.User("bob", 1001, 1001, 1000)
	eve := access.User("eve", 1002, 1002)
	root := access.User("", 0)
	as := func(who server.Caller) context.Context { return server.WithCaller(t.Context(), who) }
	build := func(who server.Caller, mode, key string) (api.Golden, bool, error) {
		r := shop()
		r.Mode, r.Key = mode, key
		return w.Build(as(who), who, r.BuildRequest, r.next, r.event)
	}
	g, _, err := build(ada, "0640", "k")
	if err != nil || g.Mode != "0640" {
		t.Fatalf("%+v, %v", g, err)
	}
	if list, err := w.List(as(bob), ""); err != nil || len(list) != 1 {
		t.Errorf("the group lists %v, %v", list, err)
	}
	if list, err := w.List(as(eve), ""); err != nil || len(list) != 0 {
		t.Errorf("others list %v, %v", list, err)
	}
	verbs := map[string]func(ctx context.Context) error{
		"promote":  func(ctx context.Context) error { _, err := w.Promote(ctx, "shop:1"); return err },
		"rollback": func(ctx context.Context) error { _, err := w.Rollback(ctx, "shop"); return err },
		"remove":   func(ctx context.Context) error { return w.Remove(ctx, "shop:1") },
		"all":      func(ctx context.Context) error { return w.Remove(ctx, "shop") },
		"access": func(ctx context.Context) error {
			_, err := w.SetAccess(ctx, "shop", api.AccessRequest{Mode: "0666"})
			return err
		},
	}
	if _, _, err := build(ada, "", "k2"); err != nil { // something to roll back to
		t.Fatal(err)
	}
	for verb, try := range verbs {
		if err := try(as(bob)); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s by the group: %v", verb, err)
		}
		if err := try(as(eve)); !errdefs.IsNotFound(err) {
			t.Errorf("%s by others: %v", verb, err)
		}
	}
	for verb, try := range map[string]func(ctx context.Context) error{
		"get":    func(ctx context.Context) error { _, err := w.Get(ctx, "shop"); return err },
		"verify": func(ctx context.Context) error { _, err := w.Verify(ctx, "shop:1"); return err },
	} {
		if err := try(as(bob)); err != nil {
			t.Errorf("%s by the group: %v", verb, err)
		}
		if err := try(as(eve)); !errdefs.IsNotFound(err) {
			t.Errorf("%s by others: %v", verb, err)
		}
	}
	for _, who := range []access.Caller{bob, eve} {
		if _, _, err := build(who, "", "other"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("built by %s: %v", who.Name, err)
		}
	}
	if _, existed, err := build(bob, "", "k2"); err != nil || !existed {
		t.Errorf("the group's key: %v, %v", existed, err)
	}
	child := &request{BuildRequest: api.BuildRequest{Name: "child", Parent: "shop"}}
	if _, _, err := w.Build(as(eve), eve, child.BuildRequest, child.next, child.event); !errdefs.IsNotFound(err) {
		t.Errorf("on top of what is not hers: %v", err)
	}

	if _, err := w.SetAccess(as(ada), "shop", api.AccessRequest{Owner: "1001"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("given away: %v", err)
	}
	if _, err := w.SetAccess(as(ada), "shop", api.AccessRequest{Group: "1001"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("a group that she is not in: %v", err)
	}
	if _, err := w.SetAccess(as(ada), "shop", api.AccessRequest{Mode: "0777"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a mode that is none: %v", err)
	}
	if g, err := w.SetAccess(as(ada), "shop", api.AccessRequest{Mode: "0660"}); err != nil || g.Mode != "0660" {
		t.Errorf("%+v, %v", g, err)
	}
	if g, _, err := build(bob, "0600", "bob's"); err != nil || g.Mode != "0660" {
		t.Errorf("by the group that may: %+v, %v", g, err)
	}
	if _, err := w.SetAccess(as(root), "shop", api.AccessRequest{Owner: "1002", Group: "1002", Mode: "0600"}); err != nil {
		t.Error(err)
	}
	if _, err := w.Get(as(ada), "shop"); !errdefs.IsNotFound(err) {
		t.Errorf("it was hers: %v", err)
	}
	if err := w.Remove(as(eve), "shop"); err != nil {
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
		answer := func(who server.Caller, build, token string) error {
			return w.Answer(t.Context(), who, build, api.HostResult{Output: "nothing to migrate", Token: token})
		}
		for name, err := range map[string]error{
			"of the group, with the token":  answer(bob, build, e.Token),
			"nobody, with the token":        answer(access.Caller{}, build, e.Token),
			"of the group, guesses the id":  answer(bob, newID(), e.Token),
			"the owner, with no such build": answer(ada, newID(), e.Token),
		} {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, token := range map[string]string{"no": "", "another": newID(), "half a": e.Token[:len(e.Token)/2]} {
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
