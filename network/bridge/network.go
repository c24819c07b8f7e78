// Package bridge is a network.Provider that makes the default network in
// process, by netlink: Linux bridges with isolated ports, one link and one
// address of IPv4 and one of IPv6 for each clone, and a firewall that lets those
// of one lease reach each other. network/DESIGN.md has reasons and figures.
//
// All that it remembers is in the kernel and in the files netns/ID and lease/ID
// below Options.StateDir, which does not survive a reboot just as bridges do not.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/locker"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/firewall"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// Options configure a Network. Only StateDir is required.
type Options struct {
	// StateDir holds the namespaces (netns/ID), what they may (lease/ID), and
	// what was changed of the host (uplinks). It is on a filesystem that a reboot
	// empties.
	StateDir string
	// Bridge names the first bridge, further ones have a number after it. ""
	// takes the first of ctrsnap0, ctrsnap1 … that no other daemon has.
	Bridge string
	// Subnet is the IPv4 range, from /8 to /29. One larger than a /22 is cut up
	// into those, one for each bridge. Zero chooses /22s that no route of the
	// host overlaps.
	Subnet netip.Prefix

	Log *slog.Logger // nil means slog.Default()

	// Failpoint, if set, is called before each step of Add and Remove.
	Failpoint func(step string) error
}

// Network gives network namespaces a link to a bridge and an address. It is
// safe for concurrent use. Locks: ids (by id), then growing or the uplinks', then mu.
type Network struct {
	opts    Options
	ids     *locker.Locker
	leases  leaseDir
	fw      *firewall.Firewall
	fwErr   error      // why there is no firewall
	growing sync.Mutex // held while a bridge is made
	uplinks *uplinks   // set with fw

	mu    sync.Mutex
	stop  func() // what watches the firewall
	lans  []*lan
	ports map[string]port // by id
}

var _ network.Provider = (*Network)(nil)

// Open takes up the bridges and namespaces of an earlier process with the same
// StateDir, or makes the first bridge. Errors are those of [Claim]. The caller
// must Close it.
func Open(ctx context.Context, opts Options) (*Network, error) {
	n, err := open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	return n, nil
}

func open(ctx context.Context, opts Options) (*Network, error) {
	if !filepath.IsAbs(opts.StateDir) {
		return nil, fmt.Errorf("state directory %q is not an absolute path: %w", opts.StateDir, errdefs.ErrInvalidArgument)
	}
	if err := checkSubnet(opts.Subnet); err != nil {
		return nil, err
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	n := &Network{opts: opts, ids: locker.New(), leases: leaseDir(filepath.Join(opts.StateDir, "lease")), ports: map[string]port{}}
	if err := errors.Join(os.MkdirAll(n.dir(), 0o700), n.leases.open()); err != nil {
		return nil, err
	}
	if err := n.takeUp(ctx); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(n.lans, func(l *lan) bool { return !l.closed }) {
		if err := n.grow(ctx, len(n.lans), netip.Addr{}); err != nil {
			return nil, err
		}
	}
	return n, n.openFirewall(ctx)
}

func (n *Network) dir(elem ...string) string {
	return filepath.Join(append([]string{n.opts.StateDir, "netns"}, elem...)...)
}

// Add implements network.Provider. It takes about a millisecond.
//
// Errors beside the contract's: InvalidArgument for an id that is no name,
// ResourceExhausted when no address is left, NotImplemented for egress on a host
// without nf_tables.
func (n *Network) Add(ctx context.Context, id string, opts network.Options) (_ network.Namespace, err error) {
	if err := errors.Join(netns.CheckID(id), n.check(opts)); err != nil {
		return network.Namespace{}, err
	}
	n.ids.Lock(id)
	defer n.unlock(id)
	if err := ctx.Err(); err != nil {
		return network.Namespace{}, err
	}
	path, err := netns.Make(n.dir(), id)
	if err != nil {
		return network.Namespace{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.unplug(id), n.leases.remove(id), netns.Delete(path))
		}
	}()
	if err := n.record(id, opts); err != nil {
		return network.Namespace{}, err
	}
	p, err := n.attach(ctx, id, path, opts)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return network.Namespace{}, err
	}
	return network.Namespace{ID: id, Path: path, Addrs: p.addrs()}, nil
}

// unlock gives the lock of an id back; the error is for locks not taken.
func (n *Network) unlock(id string) { _ = n.ids.Unlock(id) }

// Remove implements network.Provider.
func (n *Network) Remove(ctx context.Context, id string) error {
	if err := netns.CheckID(id); err != nil {
		return err
	}
	n.ids.Lock(id)
	defer n.unlock(id)
	if err := ctx.Err(); err != nil {
		return err
	}
	return n.remove(id)
}

// remove deletes the link first, so that a process that still holds the
// namespace is cut off and the address is free, and the file last.
func (n *Network) remove(id string) error {
	if err := n.step("remove"); err != nil {
		return err
	}
	if err := n.unplug(id); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", id, err)
	}
	if err := n.step("unplugged"); err != nil {
		return err
	}
	if err := n.leases.remove(id); err != nil {
		return err
	}
	if err := n.step("forgotten"); err != nil {
		return err
	}
	return netns.Delete(n.dir(id))
}

// Namespaces implements network.Provider.
func (n *Network) Namespaces(context.Context) ([]string, error) {
	entries, err := os.ReadDir(n.dir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

// Loose returns the ids that have a link but no namespace any more.
func (n *Network) Loose(context.Context) ([]string, error) {
	return slices.DeleteFunc(n.plugged(), func(id string) bool {
		_, err := os.Lstat(n.dir(id))
		return err == nil
	}), nil
}

// Reconcile deletes the links of ids that have no namespace any more and are
// not in keep. It can run at any time, beside Add and Remove. keep is for an id
// whose processes still use a namespace that lost its name.
func (n *Network) Reconcile(ctx context.Context, keep []string) error {
	var errs []error
	for _, id := range n.plugged() {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		if !slices.Contains(keep, id) {
			errs = append(errs, n.free(id))
		}
	}
	return errors.Join(errs...)
}

// free deletes the link of an id unless it has its file.
func (n *Network) free(id string) error {
	n.ids.Lock(id)
	defer n.unlock(id)
	if _, err := os.Lstat(n.dir(id)); err == nil {
		return nil
	}
	if err := errors.Join(n.unplug(id), n.leases.remove(id)); err != nil {
		return fmt.Errorf("reconcile network namespace %s: %w", id, err)
	}
	return nil
}

// Teardown deletes the bridges and the directory of namespaces. While there are
// any it fails with FailedPrecondition. It is idempotent; the Network is not to
// be used after.
func (n *Network) Teardown(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		return fmt.Errorf("tear down network: %d namespaces exist (%s …): %w", len(ids), ids[0], errdefs.ErrFailedPrecondition)
	}
	for _, l := range n.all() {
		if err := l.bridge.Delete(); err != nil {
			return fmt.Errorf("tear down network: %w", err)
		}
	}
	if err := n.closeFirewall(); err != nil {
		return fmt.Errorf("tear down network: %w", err)
	}
	return errors.Join(n.leases.removeAll(), os.RemoveAll(n.dir()))
}

func (n *Network) step(name string) error {
	if n.opts.Failpoint == nil {
		return nil
	}
	return n.opts.Failpoint(name)
}
