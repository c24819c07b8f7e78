package build

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// asks is the question that a build has put to its caller: one at a time.
type asks struct {
	mu      sync.Mutex
	pending chan api.HostResult // nil: nothing is asked
}

// ask puts the question with put and waits for the answer.
func (a *asks) ask(ctx context.Context, put func()) (api.HostResult, error) {
	ch := make(chan api.HostResult, 1)
	a.set(ch)
	defer a.set(nil)
	put()
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		return api.HostResult{}, ctx.Err()
	}
}

func (a *asks) set(ch chan api.HostResult) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = ch
}

func (a *asks) answer(build string, r api.HostResult) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending == nil {
		return fmt.Errorf("answer build %s: it has asked for nothing: %w", build, errdefs.ErrFailedPrecondition)
	}
	a.pending <- r // has room: pending is cleared below
	a.pending = nil
	return nil
}

func errNoBuild(id string) error {
	return fmt.Errorf("build %q is not under way: %w", id, errdefs.ErrNotFound)
}
