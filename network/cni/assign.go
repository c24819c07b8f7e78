package cni

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// maxLease is the longest name of a lease, in bytes.
const maxLease = 200

// Assign implements network.Provider: a file, and rules within the namespace and
// those of its lease.
func (n *Network) Assign(ctx context.Context, id string, opts network.Options) error {
	if err := errors.Join(netns.CheckID(id), n.check(opts)); err != nil {
		return err
	}
	n.ids.Lock(id)
	defer n.unlock(id)
	if _, err := os.Lstat(n.dir("netns", id)); err != nil {
		return fmt.Errorf("assign network namespace %s: %w: %w", id, errdefs.ErrNotFound, err)
	}
	n.mu.Lock()
	old := n.members[id]
	n.mu.Unlock()
	if err := n.isolate(ctx, id, member{Options: opts, Addrs: old.Addrs}); err != nil {
		return errors.Join(fmt.Errorf("assign network namespace %s: %w", id, err), n.isolate(ctx, id, old))
	}
	return nil
}

// check finds what is wrong with options before anything is made.
func (n *Network) check(opts network.Options) error {
	if len(opts.Lease) > maxLease {
		return fmt.Errorf("lease %.32q has more than %d bytes: %w", opts.Lease, maxLease, errdefs.ErrInvalidArgument)
	}
	return nil
}
