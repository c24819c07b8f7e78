package manager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// fakeInterfaces keeps what is attached in memory, beyond a restart of the Manager.
type fakeInterfaces struct {
	mu   sync.Mutex
	have []network.Attachment
	gone string // an interface that no namespace has
	dead bool   // fail all that changes something
}

func (f *fakeInterfaces) Attach(_ context.Context, id, path string, r network.AttachRequest) (network.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if path == "" || f.dead {
		return network.Attachment{}, errors.New("no namespace")
	}
	for _, a := range f.have {
		if a.ID != id && a.IP == r.IP && r.IP != "" {
			return network.Attachment{}, errdefs.ErrAlreadyExists
		}
	}
	a := network.Attachment{ID: id, IfName: fmt.Sprintf("eth%d", len(f.have)+1), Type: r.Type, Master: r.Master, IP: r.IP}
	f.have = append(f.have, a)
	return a, nil
}

func (f *fakeInterfaces) Detach(_ context.Context, id, _, ifName string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errors.New("dead")
	}
	n := len(f.have)
	f.have = slices.DeleteFunc(f.have, func(a network.Attachment) bool { return a.ID == id && a.IfName == ifName })
	if len(f.have) == n {
		return errdefs.ErrNotFound
	}
	return nil
}

func (f *fakeInterfaces) List(id string) ([]network.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.have), func(a network.Attachment) bool { return a.ID != id }), nil
}

func (f *fakeInterfaces) MayHave(_, ifName string) bool { return ifName != f.gone }

func (f *fakeInterfaces) Reconcile(_ context.Context, keep []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = slices.DeleteFunc(f.have, func(a network.Attachment) bool { return !slices.Contains(keep, a.ID) })
	return nil
}

func (f *fakeInterfaces) die(dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = dead
}

// attachable returns a Manager over the world and interfaces.
func attachable(t *testing.T, w *world, f *fakeInterfaces) *Manager {
	t.Helper()
	opts := w.options()
	opts.Interfaces = f
	opts.IsNetworkAdmin = func(c access.Caller) bool { return c.UID() == 7 || c.UID() == caller.UID() }
	m := New(opts)
	t.Cleanup(func() { m.Close(context.Background()) })
	if _, err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

var request = api.AttachRequest{Type: "bridge", Master: "br0", IP: "192.0.2.7/24"}

func TestAttachIsForAdministrators(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	m := attachable(t, w, f)
	id := create(t, m, api.CloneRequest{}).Clones[0].ID
	for _, uid := range []int{-1, caller.UID() + 1000} {
		if _, err := m.Attach(t.Context(), access.User("", uid), id, request); !errdefs.IsPermissionDenied(err) {
			t.Errorf("attach by %d: %v", uid, err)
		}
		if err := m.Detach(t.Context(), access.User("", uid), id, "eth1"); !errdefs.IsPermissionDenied(err) {
			t.Errorf("detach by %d: %v", uid, err)
		}
	}
	for _, who := range []access.Caller{access.Daemon, access.User("of both groups", 7).AsAdmin()} {
		a, err := m.Attach(t.Context(), who, id, request)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := m.Get(t.Context(), access.Daemon, id); err != nil || len(c.Attached) != 1 || c.Attached[0] != a {
			t.Errorf("attached %v, %v", c.Attached, err)
		}
		if err := m.Detach(t.Context(), who, id, a.IfName); err != nil {
			t.Errorf("detach by %s: %v", who.Name, err)
		}
	}
	if _, err := m.Attach(t.Context(), access.User("", 7), id, request); !errdefs.IsNotFound(err) {
		t.Errorf("attach another's clone: %v", err)
	}
	if c, _ := m.Get(t.Context(), access.Daemon, id); len(c.Attached) > 0 || len(f.have) > 0 {
		t.Errorf("left: %v, %v", c.Attached, f.have)
	}
	if _, err := m.Attach(t.Context(), access.Daemon, "nope", request); !errdefs.IsNotFound(err) {
		t.Errorf("unknown clone: %v", err)
	}
}

// TestAttachedSurvivesRestart also has one that an earlier daemon was attaching
// when it ended, two that it was detaching, and one of a clone that is gone.
func TestAttachedSurvivesRestart(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	m := attachable(t, w, f)
	id := create(t, m, api.CloneRequest{}).Clones[0].ID
	for range 3 {
		if _, err := m.Attach(t.Context(), access.Daemon, id, request); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.gone = "eth3"
	f.have = append(f.have[:1], f.have[2], network.Attachment{ID: id, IfName: "eth7"}, network.Attachment{ID: "caaaaaaaaaa1", IfName: "eth1"})
	m = attachable(t, w, f)
	c, err := m.Get(t.Context(), access.Daemon, id)
	if err != nil || len(c.Attached) != 1 || c.Attached[0].IfName != "eth1" {
		t.Errorf("attached %v, %v", c.Attached, err)
	}
	if len(f.have) != 1 || f.have[0].IfName != "eth1" {
		t.Errorf("left: %v", f.have)
	}
	if err := errors.Join(m.Remove(t.Context(), access.Daemon, id, false), m.Drain(t.Context())); err != nil {
		t.Fatal(err)
	}
	if len(f.have) > 0 {
		t.Errorf("left of a removed clone: %v", f.have)
	}
}

func TestAttachUndone(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	m := attachable(t, w, f)
	id := create(t, m, api.CloneRequest{}).Clones[0].ID
	boom := errors.New("boom")
	w.before = func(op string, _ int) error {
		if op == "runner.SetRecord" {
			return boom
		}
		return nil
	}
	if _, err := m.Attach(t.Context(), access.Daemon, id, request); !errors.Is(err, boom) || len(f.have) > 0 {
		t.Errorf("attach: %v, left %v", err, f.have)
	}
}
