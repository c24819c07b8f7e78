package build

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// reach returns the network namespace of a process that is to reach an address beyond this host, and what takes that away again. Such a
// process reaches what a clone with egress does: the firewall keeps it from the host, from clones, and from services that hosts trust. For
// the address of a clone of the caller's it is what that one's peers reach.
func (w *bench) reach(ctx context.Context, addr netip.Addr) (netns string, back func(context.Context) error, err error) {
	if w.HostNetwork {
		return runtime.HostNetwork, func(context.Context) error { return nil }, w.checkTools()
	}
	if err := checkBeyond(addr); err != nil {
		return "", nil, err
	}
	if err := w.addNetwork(ctx); err != nil {
		return "", nil, err
	}
	opts := network.Options{Egress: true}
	if w.Peers != nil {
		if opts.Lease, err = w.Peers(ctx, w.caller, addr); err != nil {
			return "", nil, snapshot.WithHint(err, hintDump)
		}
		opts.Egress = opts.Lease == ""
	}
	if err := w.Network.Assign(ctx, w.id, opts); err != nil {
		return "", nil, snapshot.WithHint(fmt.Errorf("let the build reach %s: %w", addr, err), hintDump)
	}
	back = func(ctx context.Context) error {
		ctx, cancel := undoContext(ctx)
		defer cancel()
		return w.Network.Assign(ctx, w.id, network.Options{})
	}
	return w.netns.Path, back, nil
}

const hintDump = "dump it where it is reached, and give --from-dump; an administrator may set build.host_network = true"

// checkBeyond refuses addresses that are this host's, or none of another host's: nothing answers there within the namespace, and who
// asks for them means what the host alone should reach.
func checkBeyond(addr netip.Addr) error {
	addr = addr.Unmap()
	own := addr.IsLoopback() || addr.IsUnspecified() || addr.IsLinkLocalUnicast() || addr.IsMulticast() || !addr.IsValid()
	if !own {
		list, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("list addresses of this host: %w", err)
		}
		for _, a := range list {
			p, err := netip.ParsePrefix(a.String())
			own = own || err == nil && p.Addr().Unmap() == addr
		}
	}
	if own {
		return snapshot.WithHint(fmt.Errorf("%s is not beyond this host: a build does not reach it: %w", addr, errdefs.ErrPermissionDenied), hintDump)
	}
	return nil
}

// checkTools wants programs of the host's own in the host's network namespace: there a program that a caller brings along would reach all that a
// daemon of the host does.
func (w *bench) checkTools() error {
	if w.base.Kind == "host" && w.req.Prefix == "" || w.caller.IsAdmin() {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("run programs of %s in the host's network (build.host_network): %w", w.base.Ref, errdefs.ErrPermissionDenied),
		"build with --from-host, without a prefix; or dump it, and give --from-dump")
}
