package bridge

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/ctrsnap/ctrsnap/network/firewall"
)

// forwarding are the switches by which a link's packets are forwarded where the
// host as a whole forwards none. That of IPv6 is known to kernels from 6.17 on:
// before, it is all links or none, and then no router is believed any more.
var forwarding = map[string]string{"ipv4": "forwarding", "ipv6": "force_forwarding"}

// uplinks are the host's links by which clones reach what is beyond it.
type uplinks struct {
	fw   *firewall.Firewall
	file string // names those that were changed
	mu   sync.Mutex
}

// open has the host forward what comes in at its other links, of which outer tells: the answers to clones. The firewall
// sees to it that it is nothing else. On a host that is a router there is nothing to do.
func (u *uplinks) open(outer func() ([]string, error)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.fw.SetUnrouted6(unrouted6()); err != nil {
		return err
	}
	if sysctl("ipv4", "all", "forwarding") == "1" {
		return u.fw.SetUplinks(nil)
	}
	links, err := outer()
	if err != nil {
		return err
	}
	known, err := u.changed()
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
		if err := errors.Join(u.fw.SetUplinks(all), os.WriteFile(u.file, []byte(strings.Join(all, "\n")), 0o600)); err != nil {
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

// changed are the links that were changed.
func (u *uplinks) changed() ([]string, error) {
	b, err := os.ReadFile(u.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return strings.Fields(string(b)), err
}

// takeUp guards those that an earlier process has changed, and says what
// is not routed.
func (u *uplinks) takeUp() error {
	if err := u.fw.SetUnrouted6(unrouted6()); err != nil {
		return err
	}
	if sysctl("ipv4", "all", "forwarding") == "1" {
		return nil
	}
	names, err := u.changed()
	if err != nil {
		return err
	}
	return u.fw.SetUplinks(names)
}

// close gives the links back as they were.
func (u *uplinks) close() error {
	names, err := u.changed()
	if err != nil || names == nil {
		return err
	}
	if sysctl("ipv4", "all", "forwarding") != "1" {
		err = setForwarding(names, "0")
	}
	return errors.Join(err, os.Remove(u.file))
}

func setForwarding(links []string, value string) (err error) {
	for _, name := range links {
		for family, key := range forwarding {
			err = errors.Join(err, setSysctl(family, name, key, value))
		}
	}
	return err
}
