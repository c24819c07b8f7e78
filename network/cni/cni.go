// Package cni is a network.Provider that runs CNI plugins through libcni: any
// network, or several, whose configuration the user names. It has none of its
// own but one of flannel's kind.
//
// All state lies below Options.StateDir, which does not survive a reboot, just
// as namespaces do not. What plugins keep elsewhere is freed after one.
// network/DESIGN.md has reasons and figures.
package cni

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
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/moby/locker"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// Options configure a Network. StateDir and Networks are required.
type Options struct {
	// StateDir holds the namespaces (netns/ID) and the records of plugins
	// (cni/). It is on a filesystem that a reboot empties.
	StateDir string
	// BinDirs are searched for plugins, in order; empty means [DefaultBinDirs].
	BinDirs []string
	// Networks are what each namespace is attached to: the first has interface
	// eth0, the next eth1 and so on.
	Networks []Conf

	Log *slog.Logger // nil means slog.Default()

	// Failpoint, if set, is called before each step of Add.
	Failpoint func(step string) error
}

// Network attaches network namespaces to CNI networks. It is safe for
// concurrent use and holds nothing open. Locks: ids (by id), then mu.
type Network struct {
	opts    Options
	confs   []Conf
	plugins *Plugins
	ids     *locker.Locker

	isolating sync.Mutex // held while rules change; taken before mu

	mu      sync.Mutex
	broken  map[string]error  // what plugins find wrong with namespaces, by id
	members map[string]member // what namespaces may, by id
	noRules error             // why there is no firewall
}

var _ network.Provider = (*Network)(nil)

// Open reads the configurations, checks that the plugins are there and has them
// free what an earlier process left. That plugins cannot work just now, as
// flannel's before flanneld runs, is a warning in the log.
//
// Errors: InvalidArgument for a bad configuration, FailedPrecondition for a
// missing plugin or a range that the host routes elsewhere; all with hints.
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
	if len(opts.Networks) == 0 {
		return nil, fmt.Errorf("no CNI network is named: %w", errdefs.ErrInvalidArgument)
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	n := &Network{opts: opts, ids: locker.New(), broken: map[string]error{}, members: map[string]member{}}
	n.plugins = NewPlugins(n.dir("cni", "cache"), opts.BinDirs)
	for _, dir := range []string{n.dir("netns"), n.dir("cni"), n.dir("member")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	for i, c := range opts.Networks {
		if err := n.use(ctx, i, c); err != nil {
			return nil, err
		}
	}
	return n, errors.Join(n.collect(ctx), n.markChanged(ctx), n.takeUpMembers(ctx))
}

// use makes c the network of the i-th interface.
func (n *Network) use(ctx context.Context, i int, c Conf) error {
	for _, other := range n.confs {
		if other.Name == c.Name {
			return fmt.Errorf("network %s is named twice: %w", c.Name, errdefs.ErrInvalidArgument)
		}
	}
	c, err := c.keptIn(n.dir("cni"))
	if err != nil {
		return err
	}
	for _, l := range c.leases {
		l.Log = n.opts.Log
	}
	n.confs = append(n.confs, c)
	if err := n.plugins.find(c); err != nil {
		return err
	}
	if err := n.checkRanges(c); err != nil {
		return err
	}
	if err := n.plugins.Status(ctx, c); err != nil {
		n.opts.Log.WarnContext(ctx, "network cannot be used yet", "network", c.Name, "interface", ifName(i), "error", err)
	}
	return nil
}

func (n *Network) dir(elem ...string) string {
	return filepath.Join(append([]string{n.opts.StateDir}, elem...)...)
}

func ifName(i int) string { return fmt.Sprintf("eth%d", i) }

// attachment is the i-th interface of a namespace.
func (n *Network) attachment(i int, id, path string) Attachment {
	return Attachment{ContainerID: n.containerID(n.confs[i], id), NetNS: path, IfName: ifName(i)}
}

// Add implements network.Provider. Plugins are not interrupted: when ctx ends
// meanwhile, what they did is undone after.
//
// Errors beside the contract's: InvalidArgument for an id that is no name,
// ResourceExhausted when a range or a bridge is full, Unavailable when a plugin
// cannot work just now.
func (n *Network) Add(ctx context.Context, id string, opts network.Options) (_ network.Namespace, err error) {
	if err := errors.Join(netns.CheckID(id), n.check(opts)); err != nil {
		return network.Namespace{}, err
	}
	n.ids.Lock(id)
	defer n.unlock(id)
	if err := ctx.Err(); err != nil {
		return network.Namespace{}, err
	}
	path, err := netns.Make(n.dir("netns"), id)
	if err != nil {
		return network.Namespace{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.undo(ctx, id, path))
		}
	}()
	addrs, all, err := n.attachAll(ctx, id, path, opts)
	if err == nil {
		err = n.isolate(ctx, id, member{Options: opts, Addrs: all})
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return network.Namespace{}, err
	}
	return network.Namespace{ID: id, Path: path, Addrs: addrs}, nil
}

// undo deletes the namespace also where a plugin cannot detach it. Its link goes
// with it; an address that stays reserved is Reconcile's.
func (n *Network) undo(ctx context.Context, id, path string) error {
	return errors.Join(n.leave(id), n.detachAll(ctx, id, path), netns.Delete(path))
}

// unlock gives the lock of an id back; the error is for locks not taken.
func (n *Network) unlock(id string) { _ = n.ids.Unlock(id) }

// attachAll returns the addresses of the first interface, and those of all.
func (n *Network) attachAll(ctx context.Context, id, path string, opts network.Options) (first, all []netip.Addr, _ error) {
	for i, c := range n.confs {
		a := n.attachment(i, id, path)
		if i == 0 && opts.Addr.IsValid() {
			a.Args = [][2]string{{"IgnoreUnknown", "1"}, {"IP", opts.Addr.String()}}
		}
		addrs, err := n.attach(ctx, c, a)
		if err != nil {
			return nil, nil, err
		}
		if all = append(all, addrs...); i == 0 {
			first = addrs
		}
	}
	if opts.Addr.IsValid() && !slices.Contains(first, opts.Addr) {
		return nil, nil, fmt.Errorf("attach %s to network %s: its plugins gave it %v and not %s: %w", id, n.confs[0].Name, first, opts.Addr, errdefs.ErrNotImplemented)
	}
	return first, all, nil
}

func (n *Network) attach(ctx context.Context, c Conf, a Attachment) ([]netip.Addr, error) {
	if err := n.step("add " + a.IfName); err != nil {
		return nil, err
	}
	if err := n.checkRanges(c); err != nil {
		return nil, err
	}
	result, err := n.plugins.Add(ctx, c, a)
	if err != nil {
		return nil, err
	}
	if err := n.step("added " + a.IfName); err != nil {
		return nil, err
	}
	if err := n.claimBridge(result); err != nil {
		return nil, err
	}
	addrs := Addresses(result)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("attach %s to network %s: its plugins gave no address: %w", a.ContainerID, c.Name, errdefs.ErrFailedPrecondition)
	}
	return addrs, nil
}

// Addresses returns those of a result, IPv4 first.
func Addresses(r *types100.Result) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs
}

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
	return n.remove(ctx, id)
}

// remove detaches and then deletes the namespace. The file of a namespace is
// the first thing made and the last removed, so without it there is nothing.
func (n *Network) remove(ctx context.Context, id string) error {
	path := n.dir("netns", id)
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := n.leave(id); err != nil { // before somebody else has its address
		return err
	}
	inside := path
	if !netns.Is(path) {
		inside = "" // half made or half removed: plugins then free addresses only
	}
	if err := n.detachAll(ctx, id, inside); err != nil {
		return err
	}
	n.setBroken(id, nil)
	return netns.Delete(path)
}

// detachAll has the plugins undo what they did for id, in reverse; an empty
// path says that its namespace is gone.
func (n *Network) detachAll(ctx context.Context, id, path string) error {
	var errs []error
	for i := range slices.Backward(n.confs) {
		errs = append(errs, n.plugins.Del(ctx, n.confs[i], n.attachment(i, id, path)))
	}
	for _, container := range []string{id, n.tag() + id} {
		errs = append(errs, n.plugins.forget(ctx, container, path))
	}
	return errors.Join(errs...)
}

// Namespaces implements network.Provider.
func (n *Network) Namespaces(context.Context) ([]string, error) {
	entries, err := os.ReadDir(n.dir("netns"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, nil
}

func (n *Network) step(name string) error {
	if n.opts.Failpoint == nil {
		return nil
	}
	return n.opts.Failpoint(name)
}
