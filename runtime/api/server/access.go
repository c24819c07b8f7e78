package server

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// MayRead says whether the caller may see and clone a golden.
func (c Caller) MayRead(g snapshot.Golden) bool { return c.allowed(g, snapshot.AccessRead) }

// CheckWrite says why the caller may not change what a golden's name means: NotFound
// if he may not even know of it, PermissionDenied else.
func (c Caller) CheckWrite(g snapshot.Golden) error {
	switch {
	case c.allowed(g, snapshot.AccessWrite):
		return nil
	case !c.MayRead(g):
		return snapshot.NoGolden(g.Ref())
	}
	return snapshot.WithHint(
		fmt.Errorf("golden %s is somebody else's: %w", g.Name, errdefs.ErrPermissionDenied),
		"its owner or root gives you the right: ctrsnap golden access "+g.Name+" --mode 0664")
}

func (c Caller) allowed(g snapshot.Golden, bit uint32) bool {
	return c.May(0) || c.UID >= 0 && g.Access.Allows(c.UID, c.In, bit)
}

// callerOr returns the sender of ctx's request, or the daemon itself.
func callerOr(ctx context.Context) Caller {
	if c, known := CallerOf(ctx); known {
		return c
	}
	return Caller{Admin: true}
}

// Readable returns a golden that was found, if the sender of ctx's request may know of it.
func Readable(ctx context.Context, ref snapshot.Ref, g snapshot.Golden, err error) (snapshot.Golden, error) {
	if err == nil && !callerOr(ctx).MayRead(g) {
		return snapshot.Golden{}, snapshot.NoGolden(ref)
	}
	return g, err
}

// CheckWrite is [Caller.CheckWrite] for the sender of ctx's request.
func CheckWrite(ctx context.Context, g snapshot.Golden) error { return callerOr(ctx).CheckWrite(g) }
