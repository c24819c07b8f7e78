package lease

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ann = access.User("ann", 1000, 1000)
	bob = access.User("bob", 1001, 1001)
)

// told is what a Book has told of clones.
type told struct {
	mu     sync.Mutex
	ended  map[string]string // why, by clone
	ending []string
}

func (w *told) end(clone, why string) { w.mu.Lock(); defer w.mu.Unlock(); w.ended[clone] = why }
func (w *told) warn(clone string, _ time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ending = append(w.ending, clone)
}

func (w *told) why(clone string) string { w.mu.Lock(); defer w.mu.Unlock(); return w.ended[clone] }
func (w *told) warned() []string        { w.mu.Lock(); defer w.mu.Unlock(); return slices.Clone(w.ending) }

func newBook(t *testing.T, cgroups string) (*Book, *told) {
	t.Helper()
	w := &told{ended: map[string]string{}}
	b := New(Options{Grace: 10 * time.Second, RestartGrace: 30 * time.Second, CgroupRoot: cgroups, Ended: w.end, Ending: w.warn})
	t.Cleanup(b.Close)
	return b, w
}

// inFakeTime runs a test with a Book.
func inFakeTime(t *testing.T, test func(t *testing.T, b *Book, w *told)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b, w := newBook(t, t.TempDir())
		test(t, b, w)
	})
}

// after lets time pass and all that it brings about happen.
func after(d time.Duration) {
	<-time.After(d) // of the bubble
	synctest.Wait()
}

func wantEnd(t *testing.T, w *told, clone, why string) {
	t.Helper()
	if got := w.why(clone); got != why {
		t.Errorf("%s: %q, want %q", clone, got, why)
	}
}

// by is a clone that lives by a lease alone.
func by(id, lease string) Clone { return Clone{id, Life{Lease: lease, Since: time.Now()}} }

// until is a clone that lives by a TTL alone.
func until(id string, ttl time.Duration) Clone {
	return Clone{id, Life{Since: time.Now(), Until: time.Now().Add(ttl)}}
}

func join(t *testing.T, b *Book, l Lease, clones ...Clone) {
	t.Helper()
	if err := b.Join(ann, l, clones...); err != nil {
		t.Fatal(err)
	}
}

// hold holds a lease in the background and returns how to let go.
func hold(t *testing.T, b *Book, id string) (release context.CancelCauseFunc, done <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	held, errs := make(chan struct{}), make(chan error, 1)
	go func() { errs <- b.Hold(ctx, ann, id, func() { close(held) }) }()
	select {
	case <-held:
	case err := <-errs:
		t.Fatal(err)
	}
	return cancel, errs
}

func TestConnection(t *testing.T) {
	inFakeTime(t, func(t *testing.T, b *Book, w *told) {
		join(t, b, Lease{ID: "l", New: true}, by("a", "l"), by("b", "l"))
		join(t, b, Lease{ID: "never held", New: true}, by("c", "never held"))
		after(9 * time.Second)
		first, firstDone := hold(t, b, "l")
		second, secondDone := hold(t, b, "l")
		join(t, b, Lease{ID: "l"}, by("d", "l"))
		after(2 * time.Second)
		wantEnd(t, w, "c", "its lease has ended")
		first(nil)
		after(time.Hour)
		wantEnd(t, w, "a", "")
		if !b.Extend("b", until("b", 2*time.Hour).Life) {
			t.Error("a clone that lives is not extended")
		}
		second(nil)
		after(100 * time.Millisecond)
		wantEnd(t, w, "a", "")
		after(200 * time.Millisecond)
		wantEnd(t, w, "a", "its lease has ended")
		wantEnd(t, w, "d", "its lease has ended")
		wantEnd(t, w, "b", "")
		if err := errors.Join(<-firstDone, <-secondDone); err != nil {
			t.Error(err)
		}
		if err := b.Hold(t.Context(), ann, "l", func() { t.Error("held") }); !errdefs.IsNotFound(err) {
			t.Errorf("hold of what has ended: %v", err)
		}
		if err := b.Join(ann, Lease{ID: "l"}, by("e", "l")); !errdefs.IsNotFound(err) {
			t.Errorf("join of what has ended: %v", err)
		}
		if b.Extend("a", until("a", time.Hour).Life) || b.Extend("e", until("e", time.Hour).Life) {
			t.Error("a clone that has ended, or never lived, is extended")
		}
	})
}

// TestStrangers: a lease of somebody else is not there.
func TestStrangers(t *testing.T) {
	inFakeTime(t, func(t *testing.T, b *Book, _ *told) {
		join(t, b, Lease{ID: "l", New: true}, by("a", "l"))
		for _, who := range []access.Caller{bob, {}} {
			if err := b.Hold(t.Context(), who, "l", func() { t.Error("held") }); !errdefs.IsNotFound(err) {
				t.Errorf("hold of %q: %v", who.Name, err)
			}
			if err := b.Join(who, Lease{ID: "l"}, by("b", "l")); !errdefs.IsNotFound(err) {
				t.Errorf("join of %q: %v", who.Name, err)
			}
		}
		if err := b.Join(access.Daemon, Lease{ID: "l"}, by("c", "l")); err != nil {
			t.Error(err)
		}
	})
}

func TestTTL(t *testing.T) {
	inFakeTime(t, func(t *testing.T, b *Book, w *told) {
		join(t, b, Lease{}, until("a", time.Hour), until("long", 10*time.Hour), until("left", time.Hour), Clone{ID: "for ever"})
		kept := until("kept", time.Hour)
		kept.Protected = true
		join(t, b, Lease{}, kept)
		both := until("both", 20*time.Minute)
		both.Lease = "l"
		join(t, b, Lease{ID: "l", New: true}, both)
		release, done := hold(t, b, "l")
		b.Leave("left")
		after(19 * time.Minute)
		if got := w.warned(); !slices.Equal(got, []string{"both"}) {
			t.Errorf("warned %v", got)
		}
		after(time.Minute)
		wantEnd(t, w, "both", "its time is over") // though it is held
		release(nil)
		<-done
		after(35 * time.Minute) // five minutes before the end
		if got := w.warned(); !slices.Equal(got, []string{"both", "a"}) {
			t.Errorf("warned %v", got)
		}
		if !b.Extend("a", Life{Since: time.Now(), Until: time.Now().Add(time.Hour)}) {
			t.Error("not extended")
		}
		after(55 * time.Minute)
		wantEnd(t, w, "a", "")
		if got := w.warned(); !slices.Equal(got, []string{"both", "a", "a"}) {
			t.Errorf("warned %v after it was extended", got)
		}
		after(5 * time.Minute)
		wantEnd(t, w, "a", "its time is over")
		b.Extend("kept", Life{Since: kept.Since, Until: kept.Until})
		after(0)
		wantEnd(t, w, "kept", "its time is over")
		after(24 * time.Hour)
		wantEnd(t, w, "long", "its time is over")
		wantEnd(t, w, "left", "")
		wantEnd(t, w, "for ever", "")
	})
}

// TestRestart: a Book that closes ends nothing, and the next one waits for holders once it is told that they can come.
func TestRestart(t *testing.T) {
	inFakeTime(t, func(t *testing.T, b *Book, w *told) {
		join(t, b, Lease{ID: "l", New: true}, by("a", "l"), by("b", "l"))
		join(t, b, Lease{ID: "lost", New: true}, by("c", "lost"))
		_, done := hold(t, b, "l")
		_, lostDone := hold(t, b, "lost")
		b.Close()
		b.Close()
		for _, d := range []<-chan error{done, lostDone} {
			if err := <-d; !errdefs.IsUnavailable(err) {
				t.Errorf("hold ended with %v", err)
			}
		}
		if err := b.Hold(t.Context(), ann, "l", func() { t.Error("held") }); !errdefs.IsUnavailable(err) {
			t.Errorf("hold of a closed Book: %v", err)
		}
		after(time.Hour)
		wantEnd(t, w, "a", "")

		b, w = newBook(t, t.TempDir())
		for _, c := range []Clone{by("a", "l"), by("b", "l"), by("c", "lost")} {
			b.Resume(ann.UID(), "", c)
		}
		after(time.Hour)
		b.Serving()
		after(29 * time.Second)
		wantEnd(t, w, "c", "")
		release, done := hold(t, b, "l")
		after(2 * time.Second)
		wantEnd(t, w, "c", "its lease has ended")
		release(nil)
		<-done
		after(time.Second)
		wantEnd(t, w, "a", "its lease has ended")
		wantEnd(t, w, "b", "its lease has ended")
	})
}

// TestStoppingServer: a server that stops ends connections before the Book is closed.
func TestStoppingServer(t *testing.T) {
	inFakeTime(t, func(t *testing.T, b *Book, w *told) {
		join(t, b, Lease{ID: "l", New: true}, by("a", "l"))
		stop, done := hold(t, b, "l")
		stop(runtime.ErrStopping)
		if err := <-done; !errdefs.IsUnavailable(err) {
			t.Errorf("got %v", err)
		}
		after(29 * time.Second)
		wantEnd(t, w, "a", "")
		after(2 * time.Second)
		wantEnd(t, w, "a", "its lease has ended")
	})
}

func TestCgroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		b, w := newBook(t, root)
		procs := filepath.Join(root, "job", "step", "cgroup.procs")
		if err := os.MkdirAll(filepath.Dir(procs), 0o755); err != nil {
			t.Fatal(err)
		}
		set := func(text string) {
			if err := os.WriteFile(procs, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		set("12\n")
		h, err := b.Find(ann, KindCgroup, "job")
		if err != nil || h.String() != "cgroup:/job" {
			t.Fatalf("%v, %v", h, err)
		}
		join(t, b, Lease{ID: "l", New: true, Holder: h}, by("a", "l"))
		b.Resume(ann.UID(), h.String(), by("b", "resumed")) // which a restart does not have to serve for
		after(time.Hour)
		wantEnd(t, w, "a", "")
		wantEnd(t, w, "b", "")
		set("")
		after(3 * time.Second)
		wantEnd(t, w, "a", "its lease has ended")
		wantEnd(t, w, "b", "its lease has ended")
		for _, bad := range []string{"/job", "/none", "/../../etc", ""} {
			if h, err := b.Find(ann, KindCgroup, bad); !errdefs.IsInvalidArgument(err) || h != nil {
				t.Errorf("lease of %q: %v, %v", bad, h, err)
			}
		}
	})
}

// TestProcess waits for real processes, in real time.
func TestProcess(t *testing.T) {
	b, w := newBook(t, t.TempDir())
	start := func() *exec.Cmd {
		cmd := exec.Command("sleep", "600")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd
	}
	job, other := start(), start()
	local := ann
	local.PID = os.Getpid()
	for id, cmd := range map[string]*exec.Cmd{"job": job, "other": other} {
		h, err := b.Find(local, KindProcess, strconv.Itoa(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		join(t, b, Lease{ID: id, New: true, Holder: h}, by(id, id))
		b.Resume(ann.UID(), h.String(), by("resumed "+id, "resumed "+id))
	}
	reused := process{other.Process.Pid, "1"} // whose number another process has by now
	b.Resume(ann.UID(), reused.String(), by("reused", "reused"))
	_ = job.Process.Kill()
	_ = job.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for _, id := range []string{"job", "resumed job", "reused"} {
		for w.why(id) == "" && time.Now().Before(deadline) {
			<-time.After(5 * time.Millisecond)
		}
		wantEnd(t, w, id, "its lease has ended")
	}
	wantEnd(t, w, "other", "")
	wantEnd(t, w, "resumed other", "")
	for _, bad := range []string{"", "x", "-1", "0", strconv.Itoa(1 << 30), strconv.Itoa(job.Process.Pid)} {
		if h, err := b.Find(local, KindProcess, bad); !errdefs.IsInvalidArgument(err) || h != nil {
			t.Errorf("lease of %q: %v, %v", bad, h, err)
		}
	}
	remote := local
	remote.Remote = "192.0.2.1:1"
	for _, who := range []access.Caller{ann, remote} { // of another PID namespace, and of another host
		if h, err := b.Find(who, KindProcess, strconv.Itoa(other.Process.Pid)); !errdefs.IsInvalidArgument(err) || h != nil {
			t.Errorf("lease of %+v: %v, %v", who, h, err)
		}
	}
}
