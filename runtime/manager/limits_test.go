package manager

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/patrol"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
)

// happened lists the types of events of a clone.
func (w *world) happened(id string) []api.EventType {
	var types []api.EventType
	list, _ := w.events.Since(0)
	for _, e := range list {
		if e.Clone == id {
			types = append(types, e.Type)
		}
	}
	return types
}

func TestCloneLimits(t *testing.T) {
	w := newWorld(t)
	w.limits.Clone = api.Limits{Pids: 100, DiskBytes: 1 << 30}
	w.limits.Most = api.Limits{MemoryBytes: 1 << 30, Connections: 50}
	m, _ := w.manager(t)
	made := create(t, m, api.CloneRequest{Limits: api.Limits{CPUs: 1.5, Connections: 20}}).Clones[0]
	want := api.Limits{MemoryBytes: 1 << 30, CPUs: 1.5, Pids: 100, DiskBytes: 1 << 30, Connections: 20}
	if isRoot() {
		want.MemoryBytes = 0 // an administrator's have no most
	}
	if made.Limits != want {
		t.Errorf("limits %+v, want %+v", made.Limits, want)
	}
	if got := w.task(made.ID).c.Limits; got != (runtime.Limits{Memory: want.MemoryBytes, CPUs: 1.5, Pids: 100}) {
		t.Errorf("the container has %+v", got)
	}
	stranger := access.User("", 70001, os.Getgid())
	for _, c := range []struct {
		limits    api.Limits
		says, try string
	}{
		{api.Limits{MemoryBytes: 2 << 30}, "limit of memory 2048MiB is above this server's maximum of 1024MiB", "ask for less"},
		{api.Limits{Connections: 51}, "limit of connections 51 is above", "ask for less"},
		{api.Limits{Pids: -1}, "negative limit of pids", ""},
		{api.Limits{MemoryBytes: 1}, "limit of memory 1B is too low", "ask for 32MiB at least"},
		{api.Limits{CPUs: 0.001}, "limit of cpus 0.001 is too low", "ask for 0.01 at least"},
		{api.Limits{Connections: 7}, "invalid argument", ""}, // the engine's own word
		{api.Limits{Pids: 15}, "limit of pids 15 is too low", "ask for 16 at least"},
	} {
		_, err := m.Create(t.Context(), stranger, api.CloneRequest{Golden: "shop", Limits: c.limits})
		var hint interface{ Hint() string }
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) ||
			c.try != "" && (!errors.As(err, &hint) || !strings.HasPrefix(hint.Hint(), c.try)) {
			t.Errorf("%+v: %v, hint %v", c.limits, err, hint)
		}
	}
}

// What a clone uses is measured for who asks, though it be younger than the last round.
func TestStats(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	made := create(t, m, api.CloneRequest{}).Clones[0]
	s, err := m.Stats(t.Context(), access.Daemon)
	if err != nil || len(s.Clones) != 1 || s.Clones[0].ID != made.ID || s.Clones[0].MemoryBytes == 0 || s.Clones[0].DiskBytes == 0 {
		t.Errorf("stats %+v: %v", s, err)
	}
}

// A member of the pool gets the limits that its caller wants.
func TestPooledLimits(t *testing.T) {
	pooled(t, 1, func(t *testing.T, w *world, m *Manager) {
		c := create(t, m, api.CloneRequest{Limits: api.Limits{MemoryBytes: 64 << 20}}).Clones[0]
		if _, claimed := c.Timings[api.StageClaim]; !claimed || w.limited[c.ID] != (runtime.Limits{Memory: 64 << 20}) || c.Limits.MemoryBytes != 64<<20 {
			t.Errorf("%+v, told %+v", c.Limits, w.limited)
		}
	})
}

// TestQuota holds users to what they may have, and lets those who wait in as others leave.
func TestQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if !isRoot() {
			t.Skip("needs root: directories are given away")
		}
		w := newWorld(t)
		w.limits.User, w.limits.All = quota.Bounds{Clones: 2}, quota.Bounds{Clones: 3, Memory: 1 << 30}
		m, _ := w.manager(t)
		ask := func(who access.Caller, n int, wait time.Duration) ([]api.Clone, error) {
			resp, err := m.Create(t.Context(), who, api.CloneRequest{Golden: "shop", Count: n, WaitTimeout: api.Duration(wait)})
			return resp.Clones, err
		}
		begun := time.Now()
		hers, err := ask(ann, 2, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(ann, 1, 0); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "2 clones of each user") {
			t.Errorf("one more: %v", err)
		}
		if _, err := ask(bob, 3, time.Hour); !errdefs.IsResourceExhausted(err) || time.Since(begun) != 0 {
			t.Errorf("what never fits: %v", err)
		}
		his, err := ask(bob, 1, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ask(admin, 1, 0); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "3 clones in all") {
			t.Errorf("above what there is in all: %v", err)
		}
		if _, err := ask(bob, 1, time.Minute); !errdefs.IsResourceExhausted(err) || time.Since(begun) != time.Minute {
			t.Errorf("after a wait: %v", err)
		}
		var order []string
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, who := range []access.Caller{ann, bob} { // ann comes first, but has more
			wg.Go(func() {
				if _, err := ask(who, 1, time.Hour); err != nil {
					t.Error(who.Name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, who.Name)
			})
			synctest.Wait()
		}
		if err := m.Remove(t.Context(), access.Daemon, hers[0].ID, false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mu.Lock()
		if fmt.Sprint(order) != "[ann]" && fmt.Sprint(order) != "[bob]" {
			t.Errorf("let in: %v", order)
		}
		mu.Unlock()
		if err := m.Remove(t.Context(), access.Daemon, his[0].ID, false); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if load := m.Load(); load.Admissions != 0 {
			t.Errorf("left: %+v", load)
		}
	})
}

// TestDiskLimit stops the clone that holds too much, at once when it may have got there, and
// the one that holds most when the storage is about to be full; nothing is made
// meanwhile.
func TestDiskLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		free := int64(100 << 30)
		set := func(n int64) { mu.Lock(); free = n; mu.Unlock() }
		w := newWorld(t)
		w.space = func() (patrol.Space, error) {
			mu.Lock()
			defer mu.Unlock()
			return patrol.Space{Size: 200 << 30, Free: free, Reserve: 10 << 30}, nil
		}
		m, _ := w.manager(t)
		limit := api.Limits{DiskBytes: 1 << 30}
		greedy := create(t, m, api.CloneRequest{Limits: limit, TTL: minutes(60)}).Clones[0]
		other := create(t, m, api.CloneRequest{Limits: limit, TTL: minutes(60)}).Clones[0]
		large := create(t, m, api.CloneRequest{TTL: minutes(60)}).Clones[0]
		after(45 * time.Second) // in the middle between two looks at everything
		w.uses(greedy.ID, 2<<30)
		after(10 * time.Second)
		if got, _ := m.Get(t.Context(), access.Daemon, greedy.ID); got.State != api.StateRunning {
			t.Error("it was measured though nothing was written") // then it is too often
		}
		set(98 << 30)
		after(time.Second)
		got, err := m.Get(t.Context(), access.Daemon, greedy.ID)
		if err != nil || got.State != api.StateDead || !strings.Contains(got.Reason, "2048 MiB of disk, its limit is 1024 MiB") {
			t.Errorf("%s %q, %v", got.State, got.Reason, err)
		}
		if h := w.happened(greedy.ID); fmt.Sprint(h) != "[clone.created clone.stopped]" {
			t.Errorf("events: %v", h)
		}

		set(9 << 30)
		after(time.Second)
		if _, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop"}); !errdefs.IsResourceExhausted(err) {
			t.Errorf("a clone on a full storage: %v", err)
		}
		w.uses(large.ID, 80<<30)
		set(4 << 30)
		after(time.Second)
		for id, want := range map[string]api.CloneState{large.ID: api.StateDead, other.ID: api.StateRunning} {
			if got, _ := m.Get(t.Context(), access.Daemon, id); got.State != want {
				t.Errorf("%s: %s %s", id, got.State, got.Reason)
			}
		}
		set(50 << 30)
		after(3 * time.Second)
		create(t, m, api.CloneRequest{})
	})
}

// TestProtect: nothing but force ends a clone that is protected.
func TestProtect(t *testing.T) {
	life(t, func(t *testing.T, w *world, m *Manager) {
		c := create(t, m, api.CloneRequest{TTL: minutes(10), Protect: true}).Clones[0]
		after(time.Hour)
		if err := m.Remove(t.Context(), access.Daemon, c.ID, false); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("removed: %v", err)
		}
		off := false
		if got, err := m.Extend(t.Context(), access.Daemon, c.ID, api.ExtendRequest{TTL: minutes(10), Protect: &off}); err != nil || got.Protected {
			t.Error(got.Protected, err)
		}
		after(9*time.Minute + 30*time.Second)
		after(time.Minute)
		if n := len(ids(t, m)); n != 0 {
			t.Errorf("%d left", n)
		}
		want := "[clone.created clone.extended clone.expiring clone.expired]"
		if h := w.happened(c.ID); fmt.Sprint(h) != want {
			t.Errorf("events: %v", h)
		}
		again := create(t, m, api.CloneRequest{Protect: true}).Clones[0]
		if err := m.Remove(t.Context(), access.Daemon, again.ID, true); err != nil {
			t.Error(err)
		}
	})
}

// TestProcessLease: clones live as long as a process, whatever ends it, and also if the
// daemon restarts meanwhile.
func TestProcessLease(t *testing.T) {
	w := newWorld(t)
	m, _ := w.manager(t)
	start := func() *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	live := func(cmd *exec.Cmd) api.Clone {
		return create(t, m, api.CloneRequest{Lease: api.LeasePID, LeaseHolder: strconv.Itoa(cmd.Process.Pid)}).Clones[0]
	}
	gone := func(id string) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for _, err := m.Get(t.Context(), access.Daemon, id); err == nil; _, err = m.Get(t.Context(), access.Daemon, id) {
			if time.Now().After(deadline) {
				t.Fatal("it is still there")
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	job := start()
	c := live(job)
	job.Process.Kill()
	job.Wait()
	gone(c.ID)

	job, other := start(), start()
	c, kept := live(job), live(other)
	m.Close(t.Context())
	job.Process.Kill()
	job.Wait()
	m, _ = w.manager(t)
	gone(c.ID)
	if _, err := m.Get(t.Context(), access.Daemon, kept.ID); err != nil {
		t.Errorf("the one that lives: %v", err)
	}
	for _, bad := range []string{"", "x", "-1", "0", strconv.Itoa(1 << 30)} {
		_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Lease: api.LeasePID, LeaseHolder: bad})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("lease of %q: %v", bad, err)
		}
	}
}

// TestCgroupLease: clones live as long as a process is in a cgroup, or below.
func TestCgroupLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.cgroups = t.TempDir()
		procs := filepath.Join(w.cgroups, "job", "step", "cgroup.procs")
		if err := os.MkdirAll(filepath.Dir(procs), 0o755); err != nil {
			t.Fatal(err)
		}
		set := func(text string) {
			if err := os.WriteFile(procs, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		set("12\n")
		m, _ := w.manager(t)
		create(t, m, api.CloneRequest{Lease: api.LeaseCgroup, LeaseHolder: "/job"})
		after(time.Hour)
		if n := len(ids(t, m)); n != 1 {
			t.Errorf("%d clones", n)
		}
		set("")
		after(3 * time.Second)
		if n := len(ids(t, m)); n != 0 {
			t.Errorf("%d clones of an empty cgroup", n)
		}
		for _, bad := range []string{"/job", "/none", "/../../etc", ""} {
			_, err := m.Create(t.Context(), caller, api.CloneRequest{Golden: "shop", Lease: api.LeaseCgroup, LeaseHolder: bad})
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("lease of %q: %v", bad, err)
			}
		}
	})
}

// TestTrimmedLog: of a log whose beginning was freed the rest is read as if it were all.
func TestTrimmedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var b strings.Builder
	for i := range 100000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := unix.Fallocate(int(w.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 512<<10); err != nil {
		t.Skip(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := seekTail(f, -1); err != nil {
		t.Fatal(err)
	}
	at, _ := f.Seek(0, 1)
	if at != 512<<10 {
		t.Errorf("begins at %d", at)
	}
	if got := lastLines(path, 2); got != "line 99998\nline 99999" {
		t.Errorf("ends with %q", got)
	}
	if got := strings.Count(lastLines(path, 1000000), "\x00"); got > 0 {
		t.Errorf("%d zero bytes", got)
	}
}
