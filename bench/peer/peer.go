package peer

import (
	"context"
	"errors"
)

// ErrNotHere says that a peer cannot be measured on this host: what it needs is not
// installed, is too old, or does not run.
var ErrNotHere = errors.New("not installed, or does not run")

// Peer hands out databases that have a golden's data, in one way. It is used by
// one goroutine.
type Peer interface {
	// Name is that of the peer's series.
	Name() string
	// Get makes a database and returns when it has answered SELECT 1. An error leaves
	// nothing behind.
	Get(ctx context.Context) (Endpoint, Drop, error)
	// Close removes what all databases share. They are dropped before.
	Close(ctx context.Context) error
}

// Drop removes a database and returns when nothing of it is left.
type Drop func(ctx context.Context) error
