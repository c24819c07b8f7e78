package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCreate(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	resp := create(t, m, api.CloneRequest{
		Golden: "shop:1", Count: 3, Name: "pr", Labels: map[string]string{"job": "7"}, Settings: map[string]string{"s": "1"},
	})
	if len(resp.Clones) != 3 || resp.LeaseID != "" || resp.Schema != api.Schema {
		t.Fatalf("got %+v", resp)
	}
	c := resp.Clones[1]
	dir := filepath.Join(w.dir, "run", c.ID)
	for stage := range c.Timings {
		c.Timings[stage] = 1
	}
	want := api.Clone{
		Schema: 1, ID: c.ID, Name: "pr-2", Golden: "shop", Version: 1, Engine: "fake", State: api.StateRunning, Created: true,
		CreatedAt: c.CreatedAt, ExpiresAt: c.ExpiresAt, URL: "fake://10.0.0.7",
		URLs: map[string]string{"tcp": "fake://10.0.0.7", "socket": "fake://" + filepath.Join(dir, "s")}, Host: "10.0.0.7", Port: 1, Socket: "/run/x",
		User: "u", Password: "p", Database: "d", PID: os.Getpid(), Labels: map[string]string{"job": "7"},
		Isolation: api.IsolationUsers, Settings: map[string]string{"s": "1"}, Owner: "me", Env: map[string]map[string]string{"tcp": {"FAKEHOST": "10.0.0.7", "FAKEPASSWORD": "p"}},
		Timings: api.Timings{"prepare": 1, "network": 1, "create": 1, "start": 1, "ready": 1, "total": 1},
	}
	if diff := cmp.Diff(want, c); diff != "" || !kind.Clone.Is(c.ID) {
		t.Error(c.ID, diff)
	}
	if ttl := c.ExpiresAt.Sub(c.CreatedAt); ttl < time.Hour || ttl > time.Hour+time.Minute {
		t.Errorf("default ttl is %s", ttl)
	}
	st, err := os.Stat(filepath.Join(dir, "s"))
	if err != nil || st.Mode() != 0o711|os.ModeDir {
		t.Errorf("socket directory: %v, %v", st.Mode(), err)
	}
	if st, err := os.Stat(filepath.Join(w.dir, "logs", c.ID+".log")); err != nil || st.Mode()&^0o640 != 0 {
		t.Errorf("log: %v, %v", st.Mode(), err)
	}
	want.DiskBytes, want.MemoryBytes = 4096, 1<<20
	for _, id := range []string{c.ID, "pr-2", c.ID[:9]} {
		if got, err := m.Get(t.Context(), access.Daemon, id); err != nil || got.ID != c.ID || got.DiskBytes != 4096 || got.MemoryBytes != 1<<20 {
			t.Errorf("get %s: %+v, %v", id, got, err)
		}
	}
	if n := m.Live(snapshot.Ref{Name: "shop"}); n != 3 {
		t.Errorf("%d live", n)
	}
	if n := m.Live(snapshot.Ref{Name: "shop", Version: 2}); n != 0 {
		t.Errorf("%d live of another version", n)
	}
	if list, err := m.List(t.Context(), access.Daemon, map[string]string{"job": "8"}); err != nil || len(list) != 0 {
		t.Errorf("by another label: %v, %v", list, err)
	}
	for _, id := range ids(t, m) {
		if err := m.Remove(t.Context(), access.Daemon, id, false); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Get(t.Context(), access.Daemon, id); !errdefs.IsNotFound(err) {
			t.Errorf("get of a removed one: %v", err)
		}
		if err := m.Remove(t.Context(), access.Daemon, id, false); !errdefs.IsNotFound(err) {
			t.Errorf("second removal: %v", err)
		}
	}
	drain(t, m)
	if left := w.left(t); left != nil {
		t.Errorf("left: %v", left)
	}
}

var steps = []string{
	"store.Prepare", "network.Add", "engine.Connect", "runner.Create", "task.Wait", "task.Start", "engine.Ready", "runner.SetRecord",
}

// Whatever step of whichever clone fails, or sees its caller leave: nothing is left when
// Create returns.
func TestCreateAllOrNothing(t *testing.T) {
	boom := errors.New("boom")
	for _, step := range steps {
		for nth := 1; nth <= 3; nth++ {
			for _, leave := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/%t", step, nth, leave), func(t *testing.T) {
					w := newWorld(t)
					m, _ := w.manager(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					w.before = func(op string, n int) error {
						if op != step || n != nth {
							return nil
						}
						if leave {
							cancel()
							return nil
						}
						return boom
					}
					_, err := m.Create(ctx, caller, api.CloneRequest{Golden: "shop", Count: 3})
					if want := map[bool]error{false: boom, true: context.Canceled}[leave]; !errors.Is(err, want) {
						t.Errorf("error is %v, want %v", err, want)
					}
					if left := w.left(t); left != nil || ids(t, m) != nil {
						t.Errorf("left: %v %v", left, ids(t, m))
					}
				})
			}
		}
	}
}

// Each step takes back those before it and nothing else.
func TestUndoExactly(t *testing.T) {
	undoes := map[string][]string{
		"engine.Connect": {"store.Remove", "network.Remove"},
		"runner.Create":  {"store.Remove", "network.Remove"},
		"task.Start":     {"store.Remove", "network.Remove", "runner.Delete"},
	}
	for step, want := range undoes {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			m, _ := w.manager(t)
			w.before = func(op string, _ int) error {
				if op == step {
					return errors.New("boom")
				}
				return nil
			}
			if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop"}); err == nil {
				t.Fatal("no error")
			}
			for _, op := range []string{"store.Remove", "network.Remove", "runner.Delete"} {
				n := 0
				for _, x := range want {
					if x == op {
						n = 1
					}
				}
				if w.calls[op] != n {
					t.Errorf("%s called %d times, want %d", op, w.calls[op], n)
				}
			}
		})
	}
}

// What cannot be undone at once is torn down later, again and again.
func TestUndoFails(t *testing.T) {
	for _, op := range []string{"store.Remove", "network.Remove", "runner.Delete"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				m, _ := w.manager(t)
				busy := errors.New("busy")
				w.before = func(o string, n int) error {
					if o == "task.Start" || o == op && n < 6 {
						return busy
					}
					return nil
				}
				if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop"}); !errors.Is(err, busy) {
					t.Errorf("error is %v", err)
				}
				if w.left(t) == nil {
					t.Error("nothing was left to be torn down")
				}
				drain(t, m)
				if left := w.left(t); left != nil {
					t.Errorf("left: %v", left)
				}
			})
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	w.goldens["alien"] = []snapshot.Golden{{Name: "alien", Version: 1, Description: snapshot.Description{Engine: "oracle"}}}
	m, _ := w.manager(t)
	for name, c := range map[string]struct {
		req  api.CloneRequest
		is   func(error) bool
		says string
	}{
		"golden":     {api.CloneRequest{Golden: "none"}, errdefs.IsNotFound, "none"},
		"version":    {api.CloneRequest{Golden: "shop:9"}, errdefs.IsNotFound, "shop:9"},
		"ref":        {api.CloneRequest{Golden: "../x"}, errdefs.IsInvalidArgument, "../x"},
		"engine":     {api.CloneRequest{Golden: "alien"}, errdefs.IsFailedPrecondition, "oracle"},
		"ttl":        {api.CloneRequest{Golden: "shop", TTL: api.Duration(25 * time.Hour)}, errdefs.IsInvalidArgument, "24h"},
		"count":      {api.CloneRequest{Golden: "shop", Count: 1001}, errdefs.IsInvalidArgument, "1001"},
		"name":       {api.CloneRequest{Golden: "shop", Name: "a/b"}, errdefs.IsInvalidArgument, "a/b"},
		"long name":  {api.CloneRequest{Golden: "shop", Name: strings.Repeat("a", 62), Count: 2}, errdefs.IsInvalidArgument, "invalid name"},
		"if_exists":  {api.CloneRequest{Golden: "shop", IfExists: "maybe"}, errdefs.IsInvalidArgument, "maybe"},
		"lease":      {api.CloneRequest{Golden: "shop", Lease: "forever"}, errdefs.IsInvalidArgument, "forever"},
		"lease id":   {api.CloneRequest{Golden: "shop", LeaseID: "l1"}, errdefs.IsNotFound, "l1"},
		"label":      {api.CloneRequest{Golden: "shop", Labels: map[string]string{"a=b": ""}}, errdefs.IsInvalidArgument, "a=b"},
		"settings":   {api.CloneRequest{Golden: "shop", Settings: map[string]string{"bad": "1"}}, errdefs.IsInvalidArgument, "shop"},
		"no request": {api.CloneRequest{}, errdefs.IsInvalidArgument, "invalid name"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.Create(t.Context(), caller, c.req)
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			var h interface{ Hint() string }
			if errdefs.IsNotFound(err) && (!errors.As(err, &h) || h.Hint() == "") {
				t.Error("no hint")
			}
			if left := w.left(t); left != nil {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestNames(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	first := create(t, m, api.CloneRequest{Name: "pr-1"}).Clones[0]
	if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "pr-1"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the same name again: %v", err)
	}
	// One of two is in the way: none is made.
	if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "pr", Count: 2}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("one of two in the way: %v", err)
	}
	reused := create(t, m, api.CloneRequest{Name: "pr-1", IfExists: api.IfExistsReuse, TTL: api.Duration(2 * time.Hour)}).Clones[0]
	if reused.ID != first.ID || reused.Created || !reused.ExpiresAt.After(*first.ExpiresAt) {
		t.Errorf("reuse: %+v", reused)
	}
	w.goldens["other"] = []snapshot.Golden{{Name: "other", Version: 1, Description: snapshot.Description{Engine: "fake"}}}
	if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "other", Name: "pr-1", IfExists: api.IfExistsReuse}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("reuse for another golden: %v", err)
	}
	// A reset that fails leaves the old one alone.
	w.before = func(op string, _ int) error {
		if op == "engine.Ready" {
			return errors.New("boom")
		}
		return nil
	}
	if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "pr-1", IfExists: api.IfExistsReset}); err == nil {
		t.Error("no error")
	}
	w.before = nil
	if got, err := m.Get(t.Context(), access.Daemon, "pr-1"); err != nil || got.ID != first.ID {
		t.Errorf("after a failed reset: %v, %v", got.ID, err)
	}
	reset := create(t, m, api.CloneRequest{Name: "pr-1", IfExists: api.IfExistsReset}).Clones[0]
	if reset.ID == first.ID || !reset.Created {
		t.Errorf("reset: %+v", reset)
	}
	// A dead one is no use.
	w.task(reset.ID).end(1)
	<-m.registry.get(reset.ID).died
	again := create(t, m, api.CloneRequest{Name: "pr-1", IfExists: api.IfExistsReuse}).Clones[0]
	if again.ID == reset.ID || !again.Created {
		t.Errorf("reuse of a dead one: %+v", again)
	}
	if got := ids(t, m); len(got) != 1 || got[0] != again.ID {
		t.Errorf("in the end: %v", got)
	}
}

// Many callers want the same name at the same time: one clone is made.
func TestNameRace(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	created, found := 0, map[string]bool{}
	for range 20 {
		wg.Go(func() {
			resp, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Name: "one", IfExists: api.IfExistsReuse})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found[resp.Clones[0].ID] = true
			if resp.Clones[0].Created {
				created++
			}
		})
	}
	wg.Wait()
	if created != 1 || len(found) != 1 {
		t.Errorf("%d created, %d found", created, len(found))
	}
}

func TestServerDiesAtStart(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	w.ready = func(ctx context.Context, ep runtime.Endpoint, died <-chan struct{}) error {
		task := w.task(filepath.Base(filepath.Dir(ep.SocketDir)))
		task.log(t, strings.Repeat("chatter\n", 100)+"FATAL: out of luck\n")
		task.end(3)
		<-died
		return errors.New("died")
	}
	_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop"})
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "exit code 3") ||
		!strings.Contains(err.Error(), "FATAL: out of luck") || strings.Count(err.Error(), "chatter") != 9 {
		t.Errorf("got %v", err)
	}
	if left := w.left(t); left != nil {
		t.Errorf("left: %v", left)
	}
}

func TestServerNeverReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		m, _ := w.manager(t)
		w.ready = func(ctx context.Context, _ runtime.Endpoint, _ <-chan struct{}) error {
			<-ctx.Done()
			return ctx.Err()
		}
		begun := time.Now()
		_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop"})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("got %v after %s", err, time.Since(begun))
		}
		if left := w.left(t); left != nil {
			t.Errorf("left: %v", left)
		}
	})
}

func TestSocketPathTooLong(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	m.opts.Engines = runtime.EngineSet{"fake": &longEngine{fakeEngine{w: w}}}
	_, err := m.Create(t.Context(), access.Daemon, api.CloneRequest{Golden: "shop"})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "107") {
		t.Errorf("got %v", err)
	}
}

type longEngine struct{ fakeEngine }

func (e *longEngine) Connect(snapshot.Golden, runtime.Endpoint) (runtime.Connection, error) {
	return runtime.Connection{Socket: strings.Repeat("x", 108)}, nil
}
