package snapshot

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Damaged is the error that a golden is not what was built; nil where nobody has found
// that.
func (g Golden) Damaged() error {
	if g.DamagedAt.IsZero() {
		return nil
	}
	return WithHint(
		fmt.Errorf("golden %s is damaged, found %s: %w", g.Ref(), g.DamagedAt.Format(time.RFC3339), errdefs.ErrDataLoss),
		"take another version ('ctrsnap golden history "+g.Name+"') or build it anew; 'ctrsnap golden verify "+g.Ref().String()+"' looks again")
}

// hintError is an error with advice for the person who reads it.
type hintError struct {
	error
	hint string
}

// WithHint adds to err what its reader can do next. Whoever shows err to a
// person finds the hint with errors.As on interface{ Hint() string }. Class and
// message of err stay as they are.
func WithHint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hintError{err, hint}
}

// Hint returns the advice.
func (e *hintError) Hint() string { return e.hint }

// Unwrap returns the error that the hint belongs to.
func (e *hintError) Unwrap() error { return e.error }
