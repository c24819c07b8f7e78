package bridge

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// forwarding are the switches by which a link's packets are forwarded where the
// host as a whole forwards none. That of IPv6 is known to kernels from 6.17 on:
// before, it is all links or none, and then no router is believed any more.
var forwarding = map[string]string{"ipv4": "forwarding", "ipv6": "force_forwarding"}

// openUplinks has the host forward what comes in at its other links: the answers to
// clones. The firewall sees to it that it is nothing else. On a host that is a
// router there is nothing to do.
func (n *Network) openUplinks() error {
	n.egress.Lock()
	defer n.egress.Unlock()
	if err := n.fw.SetUnrouted6(unrouted6()); err != nil {
		return err
	}
	if sysctl("ipv4", "all", "forwarding") == "1" {
		return n.fw.SetUplinks(nil)
	}
	links, err := n.outer()
	if err != nil {
		return err
	}
	known, err := n.uplinks()
	if err != nil {
		return err
	}
	all := known
	for _, name := range links {
		if !slices.Contains(all, name) && sysctl("ipv4", name, "forwarding") == "0" {
			all = append(all, name)
		}
	}
	if len(all) > len(known) { // first the guard, then the record, then the deed
		if err := errors.Join(n.fw.SetUplinks(all), os.WriteFile(n.uplinkFile(), []byte(strings.Join(all, "\n")), 0o600)); err != nil {
			return err
		}
	}
	return setForwarding(all, "1")
}

// unrouted6 says that IPv6 from clones goes nowhere: the host forwards none, and
// cannot be asked to for some links, or is a router for IPv4 that is not touched.
func unrouted6() bool {
	return sysctl("ipv6", "all", "forwarding") == "0" &&
		(sysctl("ipv6", "all", forwarding["ipv6"]) == "" || sysctl("ipv4", "all", "forwarding") == "1")
}

// outer lists the links with IPv4 addresses but for loopback and bridges of ours.
func (n *Network) outer() (names []string, _ error) {
	addrs, err := addrsOf(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	var ours []int
	for _, l := range n.all() {
		ours = append(ours, n.master(l))
	}
	for _, a := range addrs {
		if slices.Contains(ours, a.LinkIndex) {
			continue
		}
		if link, err := net.InterfaceByIndex(a.LinkIndex); err == nil && link.Flags&net.FlagLoopback == 0 {
			names = append(names, link.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (n *Network) uplinkFile() string { return filepath.Join(n.opts.StateDir, "uplinks") }

// uplinks are the links that were changed.
func (n *Network) uplinks() ([]string, error) {
	b, err := os.ReadFile(n.uplinkFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(b)), err
}

// takeUpUplinks guards those that an earlier process has changed, and says what
// is not routed.
func (n *Network) takeUpUplinks() error {
	if err := n.fw.SetUnrouted6(unrouted6()); err != nil {
		return err
	}
	if sysctl("ipv4", "all", "forwarding") == "1" {
		return nil
	}
	names, err := n.uplinks()
	if err != nil {
		return err
	}
	return n.fw.SetUplinks(names)
}

// closeUplinks gives the links back as they were.
func (n *Network) closeUplinks() error {
	names, err := n.uplinks()
	if err != nil || names == nil {
		return err
	}
	if sysctl("ipv4", "all", "forwarding") != "1" {
		err = setForwarding(names, "0")
	}
	return errors.Join(err, os.Remove(n.uplinkFile()))
}

func setForwarding(links []string, value string) (err error) {
	for _, name := range links {
		for family, key := range forwarding {
			err = errors.Join(err, setSysctl(family, name, key, value))
		}
	}
	return err
}
