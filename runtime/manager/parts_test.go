package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/runtime/rundir"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// The tests of this file are of the Manager's parts, each by itself.

// newParts returns a registry, empty, of clones whose records the world keeps.
func newParts(t *testing.T, w *world) *registry {
	t.Helper()
	leases := lease.New(lease.Options{Grace: time.Minute, Ended: func(string, string) {}, Ending: func(string, time.Time) {}})
	t.Cleanup(leases.Close)
	return newRegistry((*fakeRunner)(w), quota.New(quota.Bounds{}, quota.Bounds{}, nil), leases)
}

// running is a clone of golden shop that nobody has heard of, with a server that runs.
func running(t *testing.T, w *world, change func(*record)) *clone {
	t.Helper()
	rec := record{ID: kind.Clone.New(), Golden: "shop", Version: 2, OwnerUID: caller.UID(), CreatedAt: time.Now()}
	if change != nil {
		change(&rec)
	}
	c := newClone(rec.ID, fakeGolden("shop", 2), &fakeEngine{w: w}, "/run/"+rec.ID+"/s", rec)
	task := &fakeTask{w: w, c: runtime.Container{ID: c.id}, ended: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	c.task, w.containers[c.id] = task, task
	return c
}

func called(name string) func(*record) { return func(r *record) { r.Name = name } }

func TestRegistry(t *testing.T) {
	w := newWorld(t)
	r := newParts(t, w)
	a, b := running(t, w, called("a")), running(t, w, called("b"))
	if _, err := r.handOut(caller, lease.Lease{ID: "lnone"}, []*clone{a, b}, make([]*clone, 2)); !errdefs.IsNotFound(err) {
		t.Errorf("by a lease that is not there: %v", err)
	}
	if r.get(a.id) != nil || r.named(caller.UID(), "a") != nil || r.NamesVersion() != 0 {
		t.Error("handed out without a lease")
	}
	if _, err := r.handOut(caller, lease.Lease{}, []*clone{a, nil, b}, make([]*clone, 3)); err != nil {
		t.Fatal(err)
	}
	next := running(t, w, called("a"))
	replaced, err := r.handOut(caller, lease.Lease{}, []*clone{next}, []*clone{a})
	if err != nil || !slices.Equal(replaced, []*clone{a}) || !isClosed(a.gone) || isClosed(next.gone) {
		t.Errorf("replaced %v, %v", replaced, err)
	}
	stranger := access.User("other", caller.UID()+1, 1)
	for name, want := range map[string]*clone{"a": next, "b": b, next.id: next, b.id[:11]: b, a.id: nil, "c": nil, "": nil} {
		if got, err := r.find(access.Daemon, name); got != want || (err == nil) != (want != nil) {
			t.Errorf("find %q: %v, %v", name, got, err)
		}
		if got, err := r.find(stranger, name); got != nil || !errdefs.IsNotFound(err) {
			t.Errorf("a stranger finds %q: %v, %v", name, got, err)
		}
	}
	if n := r.live(snapshot.Ref{Name: "shop", Version: 2}); n != 2 || r.live(snapshot.Ref{Name: "shop", Version: 1}) != 0 {
		t.Errorf("%d are live", n)
	}
	if _, err := r.running(caller, "b"); err != nil {
		t.Error(err)
	}
	close(b.died)
	if _, err := r.running(caller, "b"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a dead one runs: %v", err)
	}
	if !r.remove(b) || r.remove(b) || r.has(b) {
		t.Error("removed not once")
	}
	r.close()
	if _, err := r.handOut(caller, lease.Lease{}, []*clone{b}, []*clone{nil}); !errors.Is(err, errClosing) {
		t.Errorf("handed out at the end: %v", err)
	}
}

// TestUpdate: what cannot be kept is not so, and what has ended is not made to live.
func TestUpdate(t *testing.T) {
	w := newWorld(t)
	r := newParts(t, w)
	c := running(t, w, nil)
	rename := func(name string) error { return r.update(t.Context(), c, called(name)) }
	if err := rename("new"); err != nil || c.record().Name != "new" || !strings.Contains(string(w.task(c.id).c.Record), `"new"`) {
		t.Errorf("%v, %+v", err, c.record())
	}
	w.before = failAt("runner.SetRecord", 1)
	if err := rename("lost"); err == nil || c.record().Name != "new" {
		t.Errorf("%v, %+v", err, c.record())
	}
	if _, err := r.handOut(caller, lease.Lease{}, []*clone{c}, []*clone{nil}); err != nil {
		t.Fatal(err)
	}
	r.leases.Leave(c.id)
	if err := rename("late"); !errdefs.IsNotFound(err) {
		t.Errorf("a clone whose life has ended: %v", err)
	}
}

// TestDeaths: a wait that goes wrong is not the end of a server, and the end of the waiting neither.
func TestDeaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var told []string
		d := newDeaths((*fakeRunner)(w).Load, func(c *clone) { told = append(told, c.id) })
		a, b := running(t, w, nil), running(t, w, nil)
		for _, c := range []*clone{a, b} {
			if err := d.watch(c); err != nil {
				t.Fatal(err)
			}
		}
		w.before = failAt("runner.Load", 1)
		exits := make(chan runtime.Exit, 1)
		exits <- runtime.Exit{Err: errors.New("containerd has gone")}
		c := running(t, w, nil)
		d.wg.Go(func() { d.await(c, exits) })
		<-time.After(time.Minute)
		w.task(a.id).end(3)
		synctest.Wait()
		if !slices.Equal(told, []string{a.id}) || !a.isDead() || a.exit.Code != 3 || c.isDead() {
			t.Errorf("told of %v, exit code %d", told, a.exit.Code)
		}
		w.task(c.id).end(4)
		synctest.Wait()
		if len(told) != 2 || c.exit.Code != 4 {
			t.Errorf("told of %v, exit code %d", told, c.exit.Code)
		}
		d.close()
		if len(told) != 2 || b.isDead() {
			t.Error("a server has ended because nobody waits")
		}
	})
}

// TestDeathUnseen: a server that has ended while the wait had gone wrong is dead.
func TestDeathUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDeaths((*fakeRunner)(w).Load, func(*clone) {})
		defer d.close()
		c := running(t, w, nil)
		w.task(c.id).end(1)
		exits := make(chan runtime.Exit, 1)
		exits <- runtime.Exit{Err: errors.New("containerd has gone")}
		d.wg.Go(func() { d.await(c, exits) })
		<-c.died
	})
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		ctx, leave, err := g.enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		g.close()
		<-ctx.Done()
		if cause := context.Cause(ctx); !errors.Is(cause, errClosing) {
			t.Errorf("it ended by %v", cause)
		}
		if _, _, err := g.enter(t.Context()); !errors.Is(err, errClosing) {
			t.Errorf("let in after the end: %v", err)
		}
		waited := make(chan struct{})
		go func() { defer close(waited); g.wait() }()
		synctest.Wait()
		if isClosed(waited) {
			t.Error("not waited for who is inside")
		}
		leave()
		<-waited
	})
}

// TestReadyWhenAllIsGiven: a clone is recorded as ready when it has all that it was to have beside, and no sooner: one
// that is not belongs to nobody, and a start removes it.
func TestReadyWhenAllIsGiven(t *testing.T) {
	for name, tt := range map[string]struct {
		req  api.CloneRequest
		want []string // ready, ports and interfaces: with the container, then after each change
	}{
		"ports":      {api.CloneRequest{Publish: []string{"5433"}}, []string{"false 0 0", "false 0 0", "false 1 0"}},
		"interfaces": {api.CloneRequest{Attach: attached}, []string{"false 0 0", "false 0 0", "false 0 1", "false 0 2"}},
		"both": {
			api.CloneRequest{Publish: []string{"5433"}, Attach: attached},
			[]string{"false 0 0", "false 0 0", "false 1 0", "false 1 1", "false 1 2"},
		},
		"none": {api.CloneRequest{}, []string{"false 0 0"}},
	} {
		t.Run(name, func(t *testing.T) { testReady(t, tt.req, tt.want) })
	}
}

func testReady(t *testing.T, req api.CloneRequest, want []string) {
	t.Helper()
	w, f := newWorld(t), &fakeInterfaces{}
	m := attachable(t, w, f)
	var records []string
	w.before = func(op string, _ int) error {
		if op == "runner.SetRecord" {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, task := range w.containers {
				rec, err := parseRecord(task.c.Record)
				records = append(records, fmt.Sprint(rec.Ready, len(rec.Published), len(rec.Attached)))
				if err != nil {
					return err
				}
			}
		}
		return nil
	}
	c := create(t, m, req).Clones[0]
	w.before = nil
	if !slices.Equal(records, want) {
		t.Errorf("records %q, want %q", records, want)
	}
	if rec, err := parseRecord(w.task(c.ID).c.Record); err != nil || !rec.Ready || len(rec.Published) != len(req.Publish) || len(rec.Attached) != len(req.Attach) {
		t.Errorf("at last %+v, %v", rec, err)
	}
}

// TestPortsReconcile: ports are taken from whom nobody was told of, given back to whom a successor had them from, and
// left to clones of which nothing is known.
func TestPortsReconcile(t *testing.T) {
	w := newWorld(t)
	x := &ports{(*fakePorts)(w), newParts(t, w)}
	reach := func(r *record) { r.Addr, r.Port = netip.MustParseAddr("10.0.0.7"), 1 }
	told := func(r *record) { reach(r); r.Published = []string{"0.0.0.0:40001"} }
	has, lost, untold := running(t, w, told), running(t, w, told), running(t, w, reach)
	at, err := publish.Parse("40001")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{has.id, untold.id, "cstranger000", "corphan00000"} {
		if _, err := x.Publish(t.Context(), id, "", []publish.Address{at}, has.at()); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.reconcile(t.Context(), []*clone{has, lost, untold}, map[string]bool{"cstranger000": true}); err != nil {
		t.Fatal(err)
	}
	want := []string{has.id, lost.id, "cstranger000"}
	got, _ := x.Published(t.Context())
	if slices.Sort(want); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
		t.Errorf("published are %v, want %v", got, want)
	}
}

// TestInterfacesTake: interfaces are taken from the namespace while there is one, and forgotten where there is none.
func TestInterfacesTake(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	x := &interfaces{f, newParts(t, w), newRemovals(t, nil), func(string) error { return nil }}
	for _, netns := range []string{"/proc/1/ns/net", ""} {
		c := running(t, w, nil)
		if err := x.give(t.Context(), &plan{attach: []network.AttachRequest{attachRequest(attached[0]), attachRequest(attached[1])}}, c, nil, &undo.Stack{}); err != nil {
			t.Fatal(err)
		}
		if len(f.have) != 2 || len(c.record().Attached) != 2 {
			t.Fatalf("have %v, record %v", f.have, c.record().Attached)
		}
		if err := errors.Join(x.take(t.Context(), c.id, netns), x.take(t.Context(), c.id, netns)); err != nil || len(f.have) > 0 {
			t.Errorf("from %q: %v, have %v", netns, err, f.have)
		}
	}
}

func newRemovals(t *testing.T, remove func(context.Context, string) error) *removal.Queue {
	t.Helper()
	q := removal.New(removal.Options{Remove: remove, Timeout: time.Minute, Parallel: 1, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(q.Close)
	return q
}

// TestBoot: who would be the first to connect with settings is the daemon; a golden's own have been tried.
func TestBoot(t *testing.T) {
	for name, tt := range map[string]struct {
		want    plan
		queries int
	}{
		"clone":         {plan{}, 0},
		"member":        {plan{member: true}, 1},
		"with settings": {plan{settings: map[string]string{"a": "b"}}, 1},
	} {
		w := newWorld(t)
		tt.want.engine, tt.want.process = &fakeEngine{w: w}, runtime.Process{Args: []string{"/server"}}
		s := starterOf((*fakeRunner)(w), &tt.want)
		c := runtime.Container{ID: "c1", NetNS: "/netns/c1", Snapshot: "c1", Rootfs: func(context.Context) ([]mount.Mount, error) { return []mount.Mount{{Source: "c1"}}, nil }}
		task, err := s.Create(t.Context(), c)
		if err == nil {
			err = errors.Join(s.Start(t.Context(), task), s.Ready(t.Context(), runtime.Endpoint{}, nil))
		}
		if err != nil || w.calls["task.Start"] != 1 || w.calls["engine.Query"] != tt.queries || w.task("c1").c.Process.Args[0] != "/server" {
			t.Errorf("%s: %v, %v", name, err, w.calls)
		}
	}
}

// TestTearDown takes all parts, whatever is left of them, and goes on where it was when it is called again.
func TestTearDown(t *testing.T) {
	w, f := newWorld(t), &fakeInterfaces{}
	var steps []string
	stop := ""
	step := func(name string) error {
		if steps = append(steps, name); name == stop {
			return errors.New("boom")
		}
		return nil
	}
	r := newParts(t, w)
	h := host{
		(*fakeStore)(w), (*fakeNetwork)(w), (*fakeRunner)(w), files{rundir.Dirs{Path: w.options().RunDir, Memory: noMemory{}}, w.options().LogDir},
		step, slog.New(slog.DiscardHandler),
	}
	u := &undertaker{host: h, registry: r, extras: extras{&ports{(*fakePorts)(w), r}, &interfaces{f, r, newRemovals(t, nil), step}}}
	if err := u.files.open(); err != nil {
		t.Fatal(err)
	}
	c := running(t, w, nil)
	if err := u.files.make(c.id, 0); err != nil {
		t.Fatal(err)
	}
	w.snapshots[c.id], w.networks[c.id], w.ports[c.id] = true, true, c.at()
	stop = "remove network"
	if err := u.tearDown(t.Context(), c.id); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("got %v", err)
	}
	stop = ""
	if err := errors.Join(u.tearDown(t.Context(), c.id), u.tearDown(t.Context(), c.id)); err != nil {
		t.Error(err)
	}
	if left := w.left(t); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	want := []string{"remove container", "remove ports", "remove interfaces", "remove network", "remove snapshot", "remove files"}
	if !slices.Equal(steps[:4], want[:4]) || !slices.Equal(steps[4:10], want) {
		t.Errorf("steps %q", steps)
	}
}

// TestRemoveProtected: what is protected goes by force only, and once.
func TestRemoveProtected(t *testing.T) {
	w := newWorld(t)
	r := newParts(t, w)
	removals := newRemovals(t, func(context.Context, string) error { return nil })
	u := &undertaker{host: host{step: func(string) error { return nil }, log: slog.New(slog.DiscardHandler)}, registry: r, removals: removals}
	c := running(t, w, func(r *record) { r.Protected = true })
	if _, err := r.handOut(caller, lease.Lease{}, []*clone{c}, []*clone{nil}); err != nil {
		t.Fatal(err)
	}
	if err := u.remove(t.Context(), caller, c, false); !errdefs.IsFailedPrecondition(err) || !r.has(c) {
		t.Errorf("without force: %v", err)
	}
	if err := u.remove(t.Context(), caller, c, true); err != nil || r.has(c) || !w.task(c.id).hasEnded() || removals.Pending() != 1 && len(removals.Owned()) != 0 {
		t.Errorf("by force: %v", err)
	}
	if u.expire(c.id, "late"); r.has(c) {
		t.Error("it came back")
	}
}

// TestPlan: what is wrong with a request is said before anything is made, by what the planner knows alone.
func TestPlan(t *testing.T) {
	w := newWorld(t)
	o := w.options()
	o.setDefaults()
	l := &planner{&o, newParts(t, w).leases, newPasswords(o.Logger)}
	defer l.passwords.close()
	for name, req := range map[string]api.CloneRequest{
		"count":    {Golden: "shop", Count: -1},
		"wait":     {Golden: "shop", WaitTimeout: -1},
		"ttl":      {Golden: "shop", TTL: minutes(25 * 60)},
		"lease":    {Golden: "shop", Lease: "x"},
		"exists":   {Golden: "shop", IfExists: "x"},
		"name":     {Golden: "shop", Name: "A"},
		"setting":  {Golden: "shop", Settings: map[string]string{"bad": "x"}},
		"ip":       {Golden: "shop", IP: "::1"},
		"port":     {Golden: "shop", Publish: []string{"1:2:3"}},
		"label":    {Golden: "shop", Labels: map[string]string{"a=b": ""}},
		"negative": {Golden: "shop", Limits: api.Limits{Pids: -1}},
	} {
		if _, err := l.plan(t.Context(), caller, req); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := l.plan(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "pr", Count: 2})
	if err != nil || !slices.Equal(p.names, []string{"pr-1", "pr-2"}) || p.ttl != time.Hour || p.golden.Version != 2 || p.peers == "" || !p.isComplete() {
		t.Errorf("%+v, %v", p, err)
	}
	p, err = l.plan(t.Context(), caller, api.CloneRequest{Golden: "shop:1", Publish: []string{"0"}})
	if err != nil || p.golden.Version != 1 || p.isComplete() {
		t.Errorf("%+v, %v", p, err)
	}
	if len(w.containers)+len(w.networks)+len(w.snapshots) > 0 {
		t.Error("something was made")
	}
}
