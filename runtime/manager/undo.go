package manager

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// undo takes back the steps of a creation that failed, last first.
type undo struct {
	mu    sync.Mutex // steps may be made side by side
	steps []func(ctx context.Context) error
}

// add remembers how to take back a step that was made.
func (u *undo) add(step func(ctx context.Context) error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, step)
}

// run takes back all steps, also when ctx has ended.
func (u *undo) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	var errs []error
	for _, step := range slices.Backward(u.steps) {
		errs = append(errs, step(ctx))
	}
	u.steps = nil
	return errors.Join(errs...)
}
