package bridge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/firewall"
)

// openFirewall writes the rules for all that was taken up. A kernel without
// nf_tables keeps clones apart by their ports alone: see [Network.Verify].
func (n *Network) openFirewall(ctx context.Context) error {
	n.fw = firewall.New(n.opts.StateDir)
	n.uplinks = &uplinks{fw: n.fw, file: filepath.Join(n.opts.StateDir, "uplinks")}
	clones := map[string]firewall.Clone{}
	n.mu.Lock()
	for id, p := range n.ports {
		clones[id] = p.rules()
	}
	n.mu.Unlock()
	if foreign, err := n.fw.Foreign(clones); len(foreign) > 0 { // an error the next call has, too
		n.opts.Log.WarnContext(ctx, "the firewall had rules of nobody: removed", "rules", foreign, "error", err)
	}
	n.fwErr = n.fw.Reset(n.bridges(), clones)
	if errdefs.IsNotImplemented(n.fwErr) {
		n.opts.Log.WarnContext(ctx, "no firewall: clones reach services of the host, and none of their lease", "error", n.fwErr)
		return nil
	}
	if n.fwErr != nil {
		return n.fwErr
	}
	stop, err := n.fw.Watch(func(err error) {
		n.opts.Log.Error("somebody deleted the firewall, and it could not be written anew", "error", err)
	})
	if err != nil {
		return err
	}
	n.stop = stop
	return n.uplinks.takeUp()
}

// Close stops watching over the rules, which stay. It is idempotent.
func (n *Network) Close() error {
	n.mu.Lock()
	stop := n.stop
	n.stop = nil
	n.mu.Unlock()
	if stop != nil {
		stop()
	}
	return n.fw.Close()
}

// bridges are those that exist, of those known and another.
func (n *Network) bridges(another ...*lan) (list []firewall.Bridge) {
	lans := n.all()
	for _, l := range another {
		if !slices.Contains(lans, l) {
			lans = append(lans, l)
		}
	}
	for _, l := range lans {
		if _, err := ifIndex(l.bridge.Name); err == nil {
			list = append(list, firewall.Bridge{Name: l.bridge.Name, Gateways: l.bridge.gateways()})
		}
	}
	return list
}

func (b *Bridge) gateways() []netip.Addr {
	if six := b.Gateway6(); six.IsValid() {
		return []netip.Addr{b.Gateway(), six}
	}
	return []netip.Addr{b.Gateway()}
}

// Gateways are the host's addresses on all bridges, each with the length of its
// subnet, for services that clones may use.
func (n *Network) Gateways() (all []netip.Prefix) {
	for _, l := range n.all() {
		for i, a := range l.bridge.gateways() {
			bits := [...]int{l.bridge.Subnet.Bits(), l.bridge.Subnet6.Bits()}
			all = append(all, netip.PrefixFrom(a, bits[i]))
		}
	}
	return all
}

// Verify says with FailedPrecondition what keeps clones from being isolated as
// they should, with a hint.
func (n *Network) Verify(context.Context) error {
	if n.fwErr != nil {
		return network.WithHint(
			fmt.Errorf("no firewall: clones reach services of this host, and none of their lease: %w: %w", errdefs.ErrFailedPrecondition, n.fwErr),
			"use a kernel with nf_tables, its families inet and netdev, nft_fwd_netdev, nft_ct, nft_masq and nft_reject_inet")
	}
	if err := n.fw.Verify(); err != nil {
		return network.WithHint(fmt.Errorf("clones are kept apart by their ports alone: %w", err),
			"restart ctrsnapd, and then what deletes its tables")
	}
	return nil
}

// StrayRules lists what the firewall has that is of no clone and no bridge, and CleanRules removes it.
func (n *Network) StrayRules(context.Context) ([]string, error) {
	if n.fwErr != nil {
		return nil, nil // there is none
	}
	return n.fw.Stray()
}

// CleanRules is idempotent.
func (n *Network) CleanRules(context.Context) error {
	if n.fwErr != nil {
		return nil
	}
	return n.fw.Clean()
}

// extendFirewall says that there is another bridge, before anybody is attached
// to it.
func (n *Network) extendFirewall(l *lan) error {
	if n.fw == nil || n.fwErr != nil {
		return nil // not yet, or none
	}
	return n.fw.SetBridges(n.bridges(l))
}

// closeFirewall deletes the rules and stops forwarding.
func (n *Network) closeFirewall() error {
	if n.fwErr != nil {
		return nil
	}
	if err := errors.Join(n.fw.Delete(), n.Close()); err != nil {
		return fmt.Errorf("delete firewall: %w", err)
	}
	return n.uplinks.close()
}
