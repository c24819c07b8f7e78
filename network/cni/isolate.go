package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/firewall"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// member is what a namespace may, and where its lease finds it. It is recorded
// in member/ID before the kernel hears of it.
type member struct {
	network.Options
	Addrs []netip.Addr
}

// isolate has rules within a namespace say whom it reaches, and those of its
// lease reach it. What plugins connect, no rule of the host's may see: clones of
// one bridge, or of hosts that flannel joins.
func (n *Network) isolate(ctx context.Context, id string, m member) error {
	if err := n.step("isolate"); err != nil {
		return err
	}
	if err := n.writeMember(id, m); err != nil {
		return err
	}
	n.isolating.Lock()
	defer n.isolating.Unlock()
	if err := n.dismiss(id); err != nil {
		return err
	}
	err := n.writeRules(id, m)
	if errdefs.IsNotImplemented(err) {
		n.warnNoRules(ctx, err)
		return nil
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.members[id] = m
	n.mu.Unlock()
	if err := n.tellPeers(id, m, firewall.AddPeers); err != nil {
		return err
	}
	return n.step("isolated")
}

// writeRules replaces the rules within a namespace.
func (n *Network) writeRules(id string, m member) error {
	rules := firewall.Inside{Egress: m.Egress, Peers: m.Addrs}
	for i := range n.confs {
		rules.Interfaces = append(rules.Interfaces, ifName(i))
	}
	for _, peer := range n.peers(id, m) {
		rules.Peers = append(rules.Peers, peer.Addrs...)
	}
	if m.Egress {
		var err error
		if rules.Kept, err = netns.HostRanges(); err != nil {
			return err
		}
	}
	return netns.Inside(n.dir("netns", id), func() error {
		if m.Egress {
			own, err := routed()
			if err != nil {
				return err
			}
			rules.Kept = append(rules.Kept, own...)
		}
		return rules.Write()
	})
}

// peers are the others of a lease, by id.
func (n *Network) peers(id string, m member) map[string]member {
	all := map[string]member{}
	n.mu.Lock()
	defer n.mu.Unlock()
	for other, o := range n.members {
		if other != id && m.Lease != "" && o.Lease == m.Lease {
			all[other] = o
		}
	}
	return all
}

// tellPeers changes the rules of the others of a lease. One whose namespace is gone
// needs none; one that has lost its rules gets them when it is assigned.
func (n *Network) tellPeers(id string, m member, change func([]netip.Addr) error) error {
	var errs []error
	for other := range n.peers(id, m) {
		err := netns.Inside(n.dir("netns", other), func() error { return change(m.Addrs) })
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("tell %s of %s: %w", other, id, err))
		}
	}
	return errors.Join(errs...)
}

// dismiss has nobody reach a namespace that did. The caller holds isolating.
func (n *Network) dismiss(id string) error {
	n.mu.Lock()
	m, ok := n.members[id]
	n.mu.Unlock()
	if !ok {
		return nil
	}
	if err := n.tellPeers(id, m, firewall.DropPeers); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.members, id)
	return nil
}

// leave is the end of a membership. It is idempotent.
func (n *Network) leave(id string) error {
	n.isolating.Lock()
	defer n.isolating.Unlock()
	if err := n.dismiss(id); err != nil {
		return err
	}
	if err := os.Remove(n.dir("member", id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n *Network) writeMember(id string, m member) error {
	doc, err := json.Marshal(m)
	if err != nil {
		return err
	}
	half := n.dir("member", "."+id)
	if err := os.WriteFile(half, doc, 0o600); err != nil {
		return err
	}
	return os.Rename(half, n.dir("member", id))
}

// takeUpMembers writes the rules of an earlier process's namespaces anew, as the
// records say. A namespace without a record is half made, or of a version that
// had no rules.
func (n *Network) takeUpMembers(ctx context.Context) error {
	ids, err := n.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		var m member
		doc, err := os.ReadFile(n.dir("member", id))
		if err == nil && json.Unmarshal(doc, &m) == nil && netns.Is(n.dir("netns", id)) {
			n.members[id] = m
		}
	}
	for id, m := range n.members {
		err := n.writeRules(id, m)
		if errdefs.IsNotImplemented(err) {
			n.warnNoRules(ctx, err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("isolate %s: %w", id, err)
		}
	}
	return nil
}

func (n *Network) warnNoRules(ctx context.Context, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.noRules == nil {
		n.opts.Log.WarnContext(ctx, "no firewall: clones of CNI networks reach what their plugins let them", "error", err)
	}
	n.noRules = err
}

// routed are the ranges that the calling thread's namespace has routes to, but for
// the default ones: where clones of its networks are.
func routed() (all []netip.Prefix, _ error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netns.List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if p, ok := netns.PrefixOf(r.Dst); ok && p.Bits() > 0 {
				all = append(all, p.Masked())
			}
		}
	}
	return all, nil
}
