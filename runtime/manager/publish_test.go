package manager

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

func TestPublish(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	resp, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "pr", Publish: []string{"5433"}})
	if err != nil {
		t.Fatal(err)
	}
	c := resp.Clones[0]
	if len(c.Published) != 1 || c.Published[0] != "0.0.0.0:40000" || c.URLs["published"] == "" {
		t.Errorf("published at %v, %v", c.Published, c.URLs)
	}
	// A restart keeps what somebody was told of, and nothing else.
	w.mu.Lock()
	w.ports["cnobody00000"] = w.ports[c.ID]
	w.mu.Unlock()
	m.Close(t.Context())
	m, _ = w.manager(t)
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ids, _ := (*fakePorts)(w).Published(t.Context()); len(ids) != 1 || ids[0] != c.ID {
		t.Errorf("published are %v", ids)
	}
	if err := m.Remove(t.Context(), access.Daemon, "pr", false); err != nil {
		t.Fatal(err)
	}
	if ids, _ := (*fakePorts)(w).Published(t.Context()); len(ids) > 0 {
		t.Errorf("a clone that is gone has ports: %v", ids)
	}
	if err := m.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPublishFails leaves no clone where its port is not to be had, or where
// that cannot be kept.
func TestPublishFails(t *testing.T) {
	for name, before := range map[string]func(string, int) error{
		"publish": failAt("ports.Publish", 1), "keep": failAt("runner.SetRecord", 1), "published": failAt("runner.SetRecord", 2), "ready": failAt("runner.SetRecord", 3),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m, _ := w.manager(t)
			w.before = before
			if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Publish: []string{"0"}}); err == nil {
				t.Fatal("no error")
			}
			if err := m.Drain(context.Background()); err != nil {
				t.Fatal(err)
			}
			if left := w.left(t); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// TestPublishedAgain has a clone's ports be its own again when its successor comes to nothing, by an error
// or by the end of the process.
func TestPublishedAgain(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	req := api.CloneRequest{Golden: "shop", Name: "pr", Publish: []string{"5433"}, IfExists: api.IfExistsReset}
	resp, err := m.Create(t.Context(), caller, req)
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Clones[0].ID
	published := func(what string) {
		t.Helper()
		if ids, _ := (*fakePorts)(w).Published(t.Context()); len(ids) != 1 || ids[0] != id {
			t.Errorf("%s: published are %v, not %s", what, ids, id)
		}
	}
	m.opts.Failpoint = func(step string) error {
		if step == "hand out" {
			return errors.New("boom")
		}
		return nil
	}
	if _, err := m.Create(t.Context(), caller, req); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
	published("after an error")
	m.Close(t.Context())
	w.mu.Lock()
	w.ports["csuccessor00"] = w.ports[id]
	delete(w.ports, id)
	w.mu.Unlock()
	m, _ = w.manager(t)
	published("after a restart")
	if err := errors.Join(m.Remove(t.Context(), access.Daemon, "pr", false), m.Drain(t.Context())); err != nil {
		t.Fatal(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestPublishRefuses(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	for at, is := range map[string]func(error) bool{"80": errdefs.IsPermissionDenied, "x": errdefs.IsInvalidArgument, "127.0.0.1:99999": errdefs.IsInvalidArgument} {
		if _, err := m.Create(t.Context(), access.User("", 1000, 1000), api.CloneRequest{Golden: "shop", Publish: []string{at}}); !is(err) {
			t.Errorf("%s: %v", at, err)
		}
	}
	many := strings.Split(strings.Repeat("0,", 9)+"0", ",")
	if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Publish: many}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%d addresses: %v", len(many), err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
