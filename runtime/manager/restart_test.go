package manager

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// A clone that is restarted stays what it was, and is asked until it answers; what the golden remembers counts no more.
func TestRestartServer(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	c := create(t, m, api.CloneRequest{Golden: "shop", Name: "a", TTL: minutes(5)}).Clones[0]
	var again bool
	w.ready = func(_ context.Context, ep runtime.Endpoint, _ <-chan struct{}) error {
		again = ep.Again
		return nil
	}
	w.before = func(op string, n int) error {
		if op == "engine.Query" && n < 3 {
			return errdefs.ErrUnavailable
		}
		return nil
	}
	got, err := m.Restart(t.Context(), access.Daemon, "a")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != c.ID || got.State != api.StateRunning || got.URL != c.URL || !again {
		t.Errorf("%+v, again %t", got, again)
	}
	if w.calls["task.Restart"] != 1 || w.calls["engine.Query"] != 3 {
		t.Error(w.calls)
	}
	w.before = func(op string, _ int) error {
		if op == "task.Restart" {
			return errdefs.ErrFailedPrecondition
		}
		return nil
	}
	var hint interface{ Hint() string }
	if _, err := m.Restart(t.Context(), access.Daemon, "a"); !errdefs.IsFailedPrecondition(err) || !errors.As(err, &hint) {
		t.Error(err)
	}
	w.task(c.ID).end(1)
	one, err := m.registry.find(access.Daemon, c.ID)
	if err != nil {
		t.Fatal(err)
	}
	<-one.died
	if _, err := m.Restart(t.Context(), access.Daemon, "a"); !errdefs.IsFailedPrecondition(err) {
		t.Error("a dead one:", err)
	}
}

// Two at once would have one stop the server that the other waits for.
func TestRestartServerTwice(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	create(t, m, api.CloneRequest{Golden: "shop", Name: "a", TTL: minutes(5)})
	w.before = func(op string, _ int) error {
		if op == "task.Restart" {
			_, err := m.Restart(context.Background(), access.Daemon, "a")
			if !errdefs.IsConflict(err) {
				t.Error(err)
			}
		}
		return nil
	}
	if _, err := m.Restart(t.Context(), access.Daemon, "a"); err != nil {
		t.Error(err)
	}
}
