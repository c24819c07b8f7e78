package manager

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// A clone of the pool and one that is made get each a password that its server
// was told, also over a restart.
func TestOwnPassword(t *testing.T) {
	pooled(t, 2, func(t *testing.T, w *world, m *Manager) {
		ask := api.CloneRequest{OwnPassword: true, Name: "a"}
		claimed := create(t, m, ask).Clones[0]
		ask.Name, ask.Settings = "b", map[string]string{"s": "1"}
		made := create(t, m, ask).Clones[0]
		plain := create(t, m, api.CloneRequest{}).Clones[0]
		if _, ok := claimed.Timings[api.StageClaim]; !ok {
			t.Error("it is not from the pool")
		}
		if claimed.Password == made.Password || plain.Password != "p" || plain.OwnPassword {
			t.Errorf("passwords %q, %q, %q", claimed.Password, made.Password, plain.Password)
		}
		for _, c := range []api.Clone{claimed, made} {
			if !c.OwnPassword || w.secrets[c.ID] != "verifier of "+c.Password || c.Env["tcp"]["FAKEPASSWORD"] != c.Password || c.Timings[api.StagePersonalise] < 0 {
				t.Errorf("the server of %+v was told %q", c, w.secrets[c.ID])
			}
		}
		after(10 * time.Second)
		// The first one was opened when it was asked for; the pool has learned it.
		opened, closed := w.calls["engine.OpenPassword"], w.calls["session.Close"]
		create(t, m, api.CloneRequest{OwnPassword: true})
		create(t, m, api.CloneRequest{})
		after(10 * time.Second) // two members more
		if w.calls["engine.OpenPassword"] != opened+2 || w.calls["session.Close"] != closed+2 {
			t.Errorf("sessions: %d opened and %d closed before, now %v", opened, closed, w.calls)
		}
		if err := m.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		m, _ = w.manager(t)
		for _, c := range []api.Clone{claimed, made} {
			if got, err := m.Get(t.Context(), access.Daemon, c.ID); err != nil || got.Password != c.Password || got.URL != c.URL {
				t.Errorf("after a restart: %+v, %v", got, err)
			}
		}
		stranger := access.User("", 5, os.Getgid())
		resp, err := m.Create(t.Context(), stranger, api.CloneRequest{Golden: "shop", Name: "a", IfExists: api.IfExistsReuse})
		if os.Getuid() != 5 && (err != nil || !resp.Clones[0].Created) {
			t.Errorf("a stranger is given the clone: %v", err)
		}
	})
}

// A clone whose server did not take its password is nobody's.
func TestOwnPasswordFails(t *testing.T) {
	pooled(t, 1, func(t *testing.T, w *world, m *Manager) {
		w.before = func(op string, _ int) error {
			if op == "session.Set" {
				return errors.New("boom")
			}
			return nil
		}
		if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", OwnPassword: true}); err == nil {
			t.Error("no error")
		}
		after(time.Minute)
		if p := poolOf(t, m, 2); p.Ready != 1 || len(w.containers) != 1 || len(ids(t, m)) != 0 {
			t.Errorf("%+v, %d containers", p, len(w.containers))
		}
	})
}

// Get tells what the server is set to, and that nothing of it is durable.
func TestServerSettings(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		c := create(t, m, api.CloneRequest{Settings: map[string]string{"s": "1"}}).Clones[0]
		got, err := m.Get(t.Context(), access.Daemon, c.ID)
		want := api.ServerSetting{Name: "s", Value: "1", From: "clone", Note: "n"}
		if err != nil || !slices.Contains(got.ServerSettings, want) || got.Durability != api.DurabilityOff {
			t.Errorf("%+v, %v", got, err)
		}
		many := map[string]string{}
		for i := range maxSettings + 1 {
			many[string(rune('a'+i))] = "1"
		}
		for _, bad := range []map[string]string{many, {"": "x"}, {"x": string(make([]byte, maxSettingSize))}} {
			if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Settings: bad}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%d settings: %v", len(bad), err)
			}
		}
	})
}
