package attach

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/network"
)

// parent is the link that a macvlan is a child of.
func parent(att Attachment) string {
	if att.VLAN == 0 {
		return att.Master
	}
	return fmt.Sprintf("ctrv%x.%d", masterIndex(att), att.VLAN)
}

// masterIndex keeps the names of VLAN links short, whatever the master is called.
func masterIndex(att Attachment) int {
	link, err := netlink.LinkByName(att.Master)
	if err != nil {
		return 0
	}
	return link.Attrs().Index
}

// addVLAN makes the link that tags frames, unless another attachment has made
// it.
func (a *Attacher) addVLAN(att Attachment) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = parent(att), masterIndex(att)
	link := &netlink.Vlan{LinkAttrs: attrs, VlanId: att.VLAN}
	err := netlink.LinkAdd(link)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return network.WithHint(
			fmt.Errorf("VLAN %d on %s: the kernel has no VLAN links, module 8021q: %w", att.VLAN, att.Master, errdefs.ErrNotImplemented),
			"use type bridge with a bridge that filters VLANs, or load the module")
	case errors.Is(err, unix.EEXIST):
		return nil
	case err != nil:
		return fmt.Errorf("make VLAN %d on %s: %w", att.VLAN, att.Master, err)
	}
	return netlink.LinkSetUp(link)
}

// deleteVLAN deletes the link when no attachment needs it.
func (a *Attacher) deleteVLAN(att Attachment) error {
	if att.VLAN == 0 || att.Type != network.Macvlan {
		return nil
	}
	all, err := a.all()
	if err != nil {
		return err
	}
	for _, other := range all {
		if other.Type == network.Macvlan && other.Master == att.Master && other.VLAN == att.VLAN {
			return nil
		}
	}
	link, err := netlink.LinkByName(parent(att))
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}
