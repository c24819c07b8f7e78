package build

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// asks is the question that a build has put to its caller: one at a time.
type asks struct {
	mu      sync.Mutex
	pending chan api.HostResult // nil: nothing is asked
	token   string              // whoever knows it was asked
}

// ask puts the question with put and waits for the answer that has the same token.
func (a *asks) ask(ctx context.Context, put func(token string)) (api.HostResult, error) {
	ch, token := make(chan api.HostResult, 1), rand.Text()
	a.set(ch, token)
	defer a.set(nil, "")
	put(token)
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		return api.HostResult{}, ctx.Err()
	}
}

func (a *asks) set(ch chan api.HostResult, token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending, a.token = ch, token
}

func (a *asks) answer(build string, r api.HostResult) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.pending == nil:
		return fmt.Errorf("answer build %s: it has asked for nothing: %w", build, errdefs.ErrFailedPrecondition)
	case r.Token == "":
		return snapshot.WithHint(fmt.Errorf("answer build %s: no token given: %w", build, errdefs.ErrPermissionDenied),
			"the answer has the token of the event that asked; a ctrsnap without one is older than ctrsnapd: upgrade ctrsnap")
	case subtle.ConstantTimeCompare([]byte(r.Token), []byte(a.token)) == 0:
		return fmt.Errorf("answer build %s: it has not given this token: %w", build, errdefs.ErrPermissionDenied)
	}
	a.pending <- r // has room: pending is cleared below
	a.pending = nil
	return nil
}

func errNoBuild(id string) error {
	return fmt.Errorf("build %q is not under way: %w", id, errdefs.ErrNotFound)
}
