// Package cni is a network.Provider that runs CNI plugins through libcni.
//
// Without a configuration of the user's it has a network of its own: a bridge
// on the host with addresses by host-local. The host reaches each clone, a
// clone reaches the host's end of the bridge only: neither other clones nor
// anything beyond. network/DESIGN.md has reasons and figures.
//
// All state lies below Options.StateDir, which does not survive a reboot, just
// as bridges and namespaces do not.
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
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/moby/locker"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/bridge"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// ifName is the clone's interface.
const ifName = "eth0"

// pluginTimeout bounds one operation of all plugins of a network.
const pluginTimeout = 30 * time.Second

// Options configure a Network. Only StateDir is required.
type Options struct {
	// StateDir holds the namespaces (netns/ID) and the records of plugins
	// (cni/). It is on a filesystem that a reboot empties.
	StateDir string
	// BinDirs are searched for plugins, in order; empty means [DefaultBinDirs].
	BinDirs []string
	// Conflist is a CNI network configuration list in JSON to be used in place
	// of the default network. host-local in it keeps its records below StateDir
	// unless it says otherwise.
	Conflist []byte

	// Bridge names the bridge of the default network. "" takes the first of
	// ctrsnap0, ctrsnap1 … that no other daemon has.
	Bridge string
	// Subnet is the IPv4 range of the default network, from /8 to /29; zero
	// chooses one that no route of the host overlaps.
	Subnet netip.Prefix

	Log *slog.Logger // nil means slog.Default()

	// failpoint, if set, is called before each step of Add.
	failpoint func(step string) error
}

// DefaultBinDirs are where distributions and the plugins' releases put them.
var DefaultBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// Network attaches network namespaces to one CNI network. It is safe for
// concurrent use and holds nothing open. Locks: ids (by id), then mu.
type Network struct {
	opts Options
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
	ids  *locker.Locker

	mu     sync.Mutex     // held while the bridge is made anew
	bridge *bridge.Bridge // nil with a configuration of the user's
}

var _ network.Provider = (*Network)(nil)

// Open reads the configuration, checks that the plugins are there, and sets up
// the bridge of the default network, or takes up the one of an earlier process
// with the same StateDir. An error leaves no bridge behind that it made.
//
// Errors: InvalidArgument for a bad configuration, FailedPrecondition for a
// missing plugin, a subnet or a bridge name that is taken, ResourceExhausted if
// no subnet is left; all with hints.
func Open(ctx context.Context, opts Options) (*Network, error) {
	n, err := open(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	return n, nil
}

func open(ctx context.Context, opts Options) (*Network, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	n := &Network{opts: opts, ids: locker.New()}
	n.cni = libcni.NewCNIConfigWithCacheDir(opts.BinDirs, n.dir("cni", "cache"),
		&invoke.DefaultExec{RawExec: &invoke.RawExec{}})
	for _, dir := range []string{n.dir("netns"), n.dir("cni")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	var err error
	if opts.Conflist != nil {
		n.list, err = parseConflist(opts.Conflist, n.dir("cni", "ipam"))
	} else {
		err = n.openDefault(ctx)
	}
	if err != nil {
		return nil, err
	}
	return n, n.checkPlugins(pluginTypes(n.list))
}

func (o *Options) complete() error {
	if !filepath.IsAbs(o.StateDir) {
		return fmt.Errorf("state directory %q is not an absolute path: %w", o.StateDir, errdefs.ErrInvalidArgument)
	}
	if o.Conflist != nil && (o.Bridge != "" || o.Subnet.IsValid()) {
		return fmt.Errorf("bridge and subnet are of the default network, a conflist has its own: %w", errdefs.ErrInvalidArgument)
	}
	if len(o.BinDirs) == 0 {
		o.BinDirs = DefaultBinDirs
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return nil
}

// openDefault sets up the default network, plugins first: after that nothing
// can fail that would leave a bridge behind.
func (n *Network) openDefault(ctx context.Context) error {
	if err := n.checkPlugins([]string{"bridge", "host-local"}); err != nil {
		return err
	}
	var err error
	if n.bridge, err = bridge.Claim(ctx, n.opts.bridge()); err != nil {
		return err
	}
	n.list, err = defaultConflist(n.bridge, n.dir("cni", "ipam"))
	return err
}

func (n *Network) dir(elem ...string) string {
	return filepath.Join(append([]string{n.opts.StateDir}, elem...)...)
}

// Add implements network.Provider. Plugins are not interrupted: when ctx ends
// meanwhile, what they did is undone after.
//
// Errors beside the contract's: InvalidArgument for an id that is no name,
// ResourceExhausted when the subnet or the bridge is full.
func (n *Network) Add(ctx context.Context, id string, opts network.Options) (_ network.Namespace, err error) {
	if err := errors.Join(netns.CheckID(id), check(opts)); err != nil {
		return network.Namespace{}, err
	}
	n.ids.Lock(id)
	defer n.unlock(id)
	if err := ctx.Err(); err != nil {
		return network.Namespace{}, err
	}
	if err := n.ensureBridge(); err != nil {
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
	addrs, err := n.attach(ctx, id, path)
	if err = errors.Join(err, ctx.Err()); err != nil {
		return network.Namespace{}, err
	}
	return network.Namespace{ID: id, Path: path, Addrs: addrs}, nil
}

// undo deletes the namespace also where a plugin cannot detach it. Its link goes
// with it; an address that stays reserved is Reconcile's.
func (n *Network) undo(ctx context.Context, id, path string) error {
	return errors.Join(n.detach(ctx, id, path), netns.Delete(path))
}

// unlock gives the lock of an id back; the error is for locks not taken.
func (n *Network) unlock(id string) { _ = n.ids.Unlock(id) }

func (n *Network) attach(ctx context.Context, id, path string) ([]netip.Addr, error) {
	if err := n.step("add"); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pluginTimeout)
	defer cancel()
	r, err := n.cni.AddNetworkList(ctx, n.list, runtimeConf(id, path))
	if err != nil {
		return nil, n.pluginError("attach", id, err)
	}
	if err := n.step("added"); err != nil {
		return nil, err
	}
	result, err := types100.NewResultFromResult(r)
	if err != nil {
		return nil, fmt.Errorf("attach %s to network %s: read result: %w", id, n.list.Name, err)
	}
	if err := n.nameVeth(id, result); err != nil {
		return nil, err
	}
	addrs := addresses(result)
	if len(addrs) == 0 {
		return nil, fmt.Errorf("attach %s to network %s: its plugins gave no address: %w", id, n.list.Name, errdefs.ErrFailedPrecondition)
	}
	return addrs, nil
}

// addresses returns those of a result, IPv4 first.
func addresses(r *types100.Result) []netip.Addr {
	var addrs []netip.Addr
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			addrs = append(addrs, a.Unmap())
		}
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	return addrs
}

func runtimeConf(id, path string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: id, NetNS: path, IfName: ifName}
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
	inside := path
	if !netns.Is(path) {
		inside = "" // half made or half removed: plugins then free addresses only
	}
	if err := n.detach(ctx, id, inside); err != nil {
		return err
	}
	return netns.Delete(path)
}

// detach has the plugins undo what they did for id; an empty path says that
// its namespace is gone.
func (n *Network) detach(ctx context.Context, id, path string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pluginTimeout)
	defer cancel()
	if err := n.cni.DelNetworkList(ctx, n.list, runtimeConf(id, path)); err != nil {
		return n.pluginError("detach", id, err)
	}
	return nil
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
	if n.opts.failpoint == nil {
		return nil
	}
	return n.opts.failpoint(name)
}
