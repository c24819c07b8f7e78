package build

import (
	"context"
	"errors"
	"fmt"
)

// undo is a stack of what ends a build, whether it went well or not.
type undo struct {
	steps []undoStep
}

type undoStep struct {
	name string
	fn   func(context.Context) error
}

func (u *undo) add(name string, fn func(context.Context) error) {
	u.steps = append(u.steps, undoStep{name, fn})
}

// run takes all steps, the last added first, whatever each returns.
func (u *undo) run(ctx context.Context) error {
	ctx, cancel := undoContext(ctx)
	defer cancel()
	var errs []error
	for len(u.steps) > 0 {
		s := u.steps[len(u.steps)-1]
		u.steps = u.steps[:len(u.steps)-1]
		if err := s.fn(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
