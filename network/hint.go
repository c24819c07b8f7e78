package network

// hintError carries advice for people, found by errors.As on
// interface{ Hint() string }.
type hintError struct {
	error
	hint string
}

// WithHint adds advice for people to an error.
func WithHint(err error, hint string) error { return &hintError{err, hint} }

// Hint returns the advice.
func (e *hintError) Hint() string { return e.hint }

func (e *hintError) Unwrap() error { return e.error }
