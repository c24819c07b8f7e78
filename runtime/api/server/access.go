package server

import (
	"context"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Caller is [access.Caller].
type Caller = access.Caller

// callerOr returns the sender of ctx's request, or the daemon itself.
func callerOr(ctx context.Context) Caller {
	if c, known := CallerOf(ctx); known {
		return c
	}
	return access.Daemon
}

// Readable returns a golden that was found, if the sender of ctx's request may know of it.
func Readable(ctx context.Context, ref snapshot.Ref, g snapshot.Golden, err error) (snapshot.Golden, error) {
	return callerOr(ctx).Readable(ref, g, err)
}

// CheckWrite is [access.Caller.CheckWrite] for the sender of ctx's request.
func CheckWrite(ctx context.Context, g snapshot.Golden) error { return callerOr(ctx).CheckWrite(g) }
