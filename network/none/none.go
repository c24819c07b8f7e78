// Package none is a network.Provider for those who are reached by unix sockets
// only: a namespace with a loopback interface and nothing else.
package none

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/locker"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// Name is what the network is asked for by.
const Name = "none"

// Network makes namespaces without a network. It is safe for concurrent use.
// The files netns/ID are all that there is of it.
type Network struct {
	dir string
	ids *locker.Locker
}

var _ network.Provider = (*Network)(nil)

// Open takes up the namespaces of an earlier process with the same state
// directory, which is on a filesystem that a reboot empties.
func Open(stateDir string) (*Network, error) {
	if !filepath.IsAbs(stateDir) {
		return nil, fmt.Errorf("state directory %q is not an absolute path: %w", stateDir, errdefs.ErrInvalidArgument)
	}
	n := &Network{dir: filepath.Join(stateDir, "netns"), ids: locker.New()}
	return n, os.MkdirAll(n.dir, 0o700)
}

// Add implements network.Provider. The namespace has no address, nobody is its
// peer, and it reaches nothing: a lease means nothing to it. Egress, or a wanted
// address, is InvalidArgument.
func (n *Network) Add(ctx context.Context, id string, opts network.Options) (network.Namespace, error) {
	if err := errors.Join(netns.CheckID(id), check(opts), ctx.Err()); err != nil {
		return network.Namespace{}, err
	}
	defer n.lock(id)()
	path, err := netns.Make(n.dir, id)
	if err != nil {
		return network.Namespace{}, err
	}
	return network.Namespace{ID: id, Path: path}, nil
}

func (n *Network) lock(id string) (unlock func()) {
	n.ids.Lock(id)
	return func() { _ = n.ids.Unlock(id) } // the error is for locks not taken
}

// check refuses what is not to be had without a network.
func check(opts network.Options) error {
	if !opts.Egress && !opts.Addr.IsValid() {
		return nil
	}
	return network.WithHint(
		fmt.Errorf("network %s has neither an address nor egress: %w", Name, errdefs.ErrInvalidArgument),
		"leave --ip and --egress away, or name another network")
}

// Assign implements network.Provider.
func (n *Network) Assign(_ context.Context, id string, opts network.Options) error {
	if err := errors.Join(netns.CheckID(id), check(opts)); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(n.dir, id)); err != nil {
		return fmt.Errorf("assign network namespace %s: %w: %w", id, errdefs.ErrNotFound, err)
	}
	return nil
}

// Remove implements network.Provider.
func (n *Network) Remove(ctx context.Context, id string) error {
	if err := errors.Join(netns.CheckID(id), ctx.Err()); err != nil {
		return err
	}
	defer n.lock(id)()
	return netns.Delete(filepath.Join(n.dir, id))
}

// Namespaces implements network.Provider.
func (n *Network) Namespaces(context.Context) ([]string, error) {
	entries, err := os.ReadDir(n.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Reconcile has nothing to free: there are no addresses.
func (n *Network) Reconcile(context.Context, []string) error { return nil }

// Teardown deletes the directory of namespaces. While there are any it fails
// with FailedPrecondition. It is idempotent.
func (n *Network) Teardown(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		return fmt.Errorf("tear down network: %d namespaces exist (%s …): %w", len(ids), ids[0], errdefs.ErrFailedPrecondition)
	}
	return os.RemoveAll(n.dir)
}

// String says what clones are attached to, for people.
func (n *Network) String() string { return "no network (unix sockets only)" }
