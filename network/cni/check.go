package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	goruntime "runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/network"
)

// Check says whether a namespace made earlier can be used, as far as that is
// known without running a plugin: what the last Verify found, and whether
// flannel still has its address.
func (n *Network) Check(_ context.Context, ns network.Namespace) error {
	n.mu.Lock()
	err := n.broken[ns.ID]
	_, isolated := n.members[ns.ID]
	isolated = isolated || n.noRules != nil
	n.mu.Unlock()
	if err != nil {
		return err
	}
	if !isolated {
		return fmt.Errorf("namespace %s is of a version without rules: %w", ns.ID, errdefs.ErrFailedPrecondition)
	}
	for _, a := range ns.Addrs {
		if n.Outdated(a) {
			return fmt.Errorf("address %s of %s is not of flannel's subnet any more: %w", a, ns.ID, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// Outdated says whether an address of the first interface is of a subnet that
// flannel has leased no more. It costs one stat(2).
func (n *Network) Outdated(a netip.Addr) bool {
	for _, l := range n.confs[0].leases {
		// Without an answer flanneld is being restarted: what it leased stays leased.
		if env, err := l.Current(); err == nil && !env.Contains(a) {
			return true
		}
	}
	return false
}

// Verify runs STATUS of all networks and CHECK of all namespaces. What is wrong
// with one is remembered: it is not usable from then on.
func (n *Network) Verify(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, len(n.confs)+len(ids))
	var g errgroup.Group
	g.SetLimit(goruntime.NumCPU())
	n.mu.Lock()
	noRules := n.noRules
	n.mu.Unlock()
	if noRules != nil {
		errs = append(errs, network.WithHint(
			fmt.Errorf("no firewall: clones of CNI networks reach what their plugins let them: %w: %w", errdefs.ErrFailedPrecondition, noRules),
			"use a kernel with nf_tables, its family inet, nft_ct and nft_reject_inet"))
	}
	for i, c := range n.confs {
		g.Go(func() error { errs[i] = n.plugins.Status(ctx, c); return nil })
	}
	for i, id := range ids {
		g.Go(func() error { errs[len(n.confs)+i] = n.verify(ctx, id); return nil })
	}
	_ = g.Wait() // errors are in errs
	return errors.Join(errs...)
}

// verify leaves alone what is made or removed just now.
func (n *Network) verify(ctx context.Context, id string) error {
	n.ids.Lock(id)
	defer n.unlock(id)
	var errs []error
	for i, c := range n.confs {
		a := n.attachment(i, id, n.dir("netns", id))
		if n.plugins.current(c, a) {
			errs = append(errs, n.plugins.Check(ctx, c, a))
		}
	}
	err := errors.Join(errs...)
	if err != nil {
		n.setBroken(id, err)
	}
	return err
}

// markChanged finds the namespaces that were attached by another configuration
// than is in force: those who have them keep them, nobody else is to get them.
func (n *Network) markChanged(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	for _, id := range ids {
		for i, c := range n.confs {
			if !n.plugins.current(c, n.attachment(i, id, "")) {
				n.setBroken(id, fmt.Errorf("%s of %s is not of network %s as it is now: %w", ifName(i), id, c.Name, errdefs.ErrFailedPrecondition))
			}
		}
	}
	return err
}

func (n *Network) setBroken(id string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.broken, id)
	if err != nil {
		n.broken[id] = err
	}
}
