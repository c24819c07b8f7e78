package runtime

import (
	"context"
	"errors"
	"time"
)

// ErrStopping is the cause of a request's context that ended because the daemon stops,
// not because its caller has gone.
var ErrStopping = errors.New("daemon is stopping")

type progressKey struct{}

// WithProgress returns a context of a request whose caller wants to be told by tell of its place in
// the queue, from 1, and of the time that it may take. tell may be called from any goroutine
// until the request is answered.
func WithProgress(ctx context.Context, tell func(place int, estimate time.Duration)) context.Context {
	return context.WithValue(ctx, progressKey{}, tell)
}

// Progress returns what [WithProgress] was given, or a function that does nothing.
func Progress(ctx context.Context) func(place int, estimate time.Duration) {
	if tell, ok := ctx.Value(progressKey{}).(func(int, time.Duration)); ok {
		return tell
	}
	return func(int, time.Duration) {}
}
