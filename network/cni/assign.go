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

// Assign implements network.Provider. Who reaches whom is said by the plugins'
// configuration and the same for all leases.
func (n *Network) Assign(_ context.Context, id string, opts network.Options) error {
	if err := errors.Join(netns.CheckID(id), check(opts)); err != nil {
		return err
	}
	if _, err := os.Lstat(n.dir("netns", id)); err != nil {
		return fmt.Errorf("assign network namespace %s: %w: %w", id, errdefs.ErrNotFound, err)
	}
	return nil
}

// check refuses what plugins cannot be told.
func check(opts network.Options) error {
	if !opts.Egress {
		return nil
	}
	return network.WithHint(
		fmt.Errorf("let a clone of a CNI network reach what is beyond the host: %w", errdefs.ErrNotImplemented),
		"its conflist says what clones reach: ask without egress")
}
