// Package undo takes back the steps of a change that has failed, or ended.
package undo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Stack is what is to be done, last added first. The zero value is ready. It is safe for concurrent use: steps may be
// made side by side.
type Stack struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	name string
	do   func(context.Context) error
}

// Add remembers how to take back a step that was made. name says what do does: errors begin with it.
func (s *Stack) Add(name string, do func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step{name, do})
}

// Run does all, whatever each returns, and forgets them. It does so although ctx may have ended, for no longer than
// timeout.
func (s *Stack) Run(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var errs []error
	for last, ok := s.pop(); ok; last, ok = s.pop() {
		if err := last.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Stack) pop() (last step, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.steps)
	if n == 0 {
		return last, false
	}
	last, s.steps = s.steps[n-1], s.steps[:n-1]
	return last, true
}
