package build

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// TestOthersBuildsGoOn: one user's builds, whatever they wait for, do not keep another user's from being worked on.
func TestOthersBuildsGoOn(t *testing.T) {
	w := newWorld(t)
	begun, goOn := w.blocked()
	var all []<-chan result
	for range w.Concurrency {
		all = append(all, w.start(t.Context(), shop()))
		<-begun
	}
	bob := access.User("bob", 1002, 1002)
	r := shop()
	r.Name = "bobs"
	done := make(chan error, 1)
	go func() {
		_, _, err := w.Build(t.Context(), bob, r.BuildRequest, r.next, r.event)
		done <- err
	}()
	if name := <-begun; name != "bobs" {
		t.Errorf("%s is built", name)
	}
	for range len(all) + 1 {
		goOn <- nil
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, one := range all {
		if res := <-one; res.err != nil {
			t.Error(res.err)
		}
	}
	w.checkNothingLeft()
}

// TestOnlyWorkHoldsATurn: builds that wait for their caller's command let others be worked on.
func TestOnlyWorkHoldsATurn(t *testing.T) {
	w := newWorld(t)
	w.engine = func(ctx context.Context, wb runtime.Workbench, src runtime.Sources) (b runtime.Built, err error) {
		for _, command := range src.Exec {
			if err := wb.Host(ctx, command, nil); err != nil {
				return b, err
			}
		}
		return b, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var waiting []<-chan result
	for range w.Concurrency + 1 {
		asked := make(chan struct{})
		r := shop()
		r.Exec = []string{"sleep 1000"}
		r.on = func(e api.BuildEvent) {
			if e.Type == api.EventExec {
				close(asked)
			}
		}
		waiting = append(waiting, w.start(ctx, r))
		<-asked
	}
	if res := <-w.start(t.Context(), shop()); res.err != nil {
		t.Error(res.err)
	}
	cancel()
	for _, one := range waiting {
		if res := <-one; !errors.Is(res.err, context.Canceled) {
			t.Error(res.err)
		}
	}
	w.checkNothingLeft()
}

// TestBuildTimeout ends a build that is worked on for too long, and says which setting did.
func TestBuildTimeout(t *testing.T) {
	w := newWorld(t)
	w.Timeout = time.Millisecond
	w.blocked()
	res := <-w.start(t.Context(), shop())
	var hint interface{ Hint() string }
	if !errdefs.IsDeadlineExceeded(res.err) || !errors.As(res.err, &hint) || !strings.Contains(hint.Hint(), "build.timeout") {
		t.Errorf("a build without end: %v", res.err)
	}
	w.checkNothingLeft()
}

// TestTooManyBuilds refuses a user who has too many under way, and nobody else.
func TestTooManyBuilds(t *testing.T) {
	w := newWorld(t)
	for range maxOfUser {
		j := &job{Builder: w.Builder, id: strings.Repeat("x", len(w.jobs)), caller: ada}
		if err := w.register(j); err != nil {
			t.Fatal(err)
		}
		defer w.unregister(j)
	}
	if res := <-w.start(t.Context(), shop()); !errdefs.IsResourceExhausted(res.err) {
		t.Errorf("one too many: %v", res.err)
	}
	r := shop()
	r.Name = "bobs"
	if _, _, err := w.Build(t.Context(), access.User("bob", 1002, 1002), r.BuildRequest, r.next, r.event); err != nil {
		t.Errorf("another user: %v", err)
	}
}

// TestEnd ends what is under way, and says why.
func TestEnd(t *testing.T) {
	w := newWorld(t)
	begun, _ := w.blocked()
	done := w.start(t.Context(), shop())
	<-begun
	full := errors.New("storage is full")
	if n := w.End(full); n != 1 {
		t.Errorf("%d builds are told", n)
	}
	if res := <-done; !errors.Is(res.err, full) {
		t.Errorf("it ended by %v", res.err)
	}
	if n := w.End(full); n != 0 {
		t.Errorf("%d builds are left", n)
	}
	w.checkNothingLeft()
}
