package bridge

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/firewall"
	"github.com/ctrsnap/ctrsnap/network/netns"
)

// maxLease is the longest name of a lease, in bytes.
const maxLease = 200

// check finds what is wrong with options before anything is made.
func (n *Network) check(opts network.Options) error {
	if len(opts.Lease) > maxLease {
		return fmt.Errorf("lease %.32q has more than %d bytes: %w", opts.Lease, maxLease, errdefs.ErrInvalidArgument)
	}
	if opts.Egress && n.fwErr != nil {
		return network.WithHint(
			fmt.Errorf("let a clone reach what is beyond the host: %w: %w", errdefs.ErrNotImplemented, n.fwErr),
			"it needs a kernel with nf_tables; 'ctrsnap doctor' says what is missing")
	}
	return nil
}

// Assign implements network.Provider: a file and one transaction of the firewall's.
func (n *Network) Assign(_ context.Context, id string, opts network.Options) error {
	if err := errors.Join(netns.CheckID(id), n.check(opts)); err != nil {
		return err
	}
	n.ids.Lock(id)
	defer n.unlock(id)
	n.mu.Lock()
	p, ok := n.ports[id]
	n.mu.Unlock()
	if !ok {
		return fmt.Errorf("assign network namespace %s: %w", id, errdefs.ErrNotFound)
	}
	old := p.opts
	p.opts = opts
	if err := n.assign(id, p); err != nil {
		return errors.Join(fmt.Errorf("assign network namespace %s: %w", id, err), n.leases.write(id, old))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[id] = p
	return nil
}

func (n *Network) assign(id string, p port) error {
	if err := n.record(id, p.opts); err != nil {
		return err
	}
	return n.allow(id, p)
}

// record writes what a namespace may before the kernel hears of it: the next
// process tells the kernel what is written.
func (n *Network) record(id string, opts network.Options) error {
	if opts.Egress {
		if err := n.uplinks.open(n.outer); err != nil {
			return err
		}
	}
	if err := n.step("lease"); err != nil {
		return err
	}
	if err := n.leases.write(id, opts); err != nil {
		return err
	}
	return n.step("recorded")
}

// allow tells the firewall of a port.
func (n *Network) allow(id string, p port) error {
	if n.fwErr != nil {
		return nil
	}
	return n.fw.Put(id, p.rules())
}

// forbid has the firewall forget a port.
func (n *Network) forbid(id string) error {
	if n.fwErr != nil {
		return nil
	}
	return n.fw.Drop(id)
}

// rules are a port as the firewall sees it.
func (p port) rules() firewall.Clone {
	return firewall.Clone{MAC: macOf(p.addr), Addrs: p.addrs(), Bridge: p.master, Lease: p.opts.Lease, Egress: p.opts.Egress}
}
