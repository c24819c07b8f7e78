package attach

import (
	"context"
	"encoding/json"
	"net/netip"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/cni"
)

type object = map[string]any

// conf is the network that the plugin is called with. Where it asks for a lease,
// there is somebody who keeps it.
func (a *Attacher) conf(att Attachment) (cni.Conf, error) {
	socket := ""
	if att.DHCP {
		var err error
		if socket, err = a.serveDHCP(); err != nil {
			return cni.Conf{}, err
		}
	}
	return confOf(att, socket)
}

func confOf(att Attachment, dhcpSocket string) (cni.Conf, error) {
	plugin := object{"type": att.Type, "ipam": object{}}
	switch att.Type {
	case network.Bridge:
		plugin["bridge"] = att.Master
		if att.VLAN != 0 {
			plugin["vlan"] = att.VLAN
		}
	case network.Macvlan:
		plugin["master"], plugin["mode"] = parent(att), "bridge"
	}
	if att.DHCP {
		plugin["ipam"] = object{"type": "dhcp", "daemonSocketPath": dhcpSocket}
	} else if p, err := netip.ParsePrefix(att.IP); err == nil {
		plugin["ipam"] = static(att, p)
	}
	doc, err := json.Marshal(object{"cniVersion": "1.0.0", "name": "attached", "plugins": []object{plugin}})
	if err != nil {
		return cni.Conf{}, err
	}
	return cni.Parse(doc)
}

// static has the plugin of that name give the address that was settled.
func static(att Attachment, p netip.Prefix) object {
	address := object{"address": att.IP}
	ipam := object{"type": "static", "addresses": []object{address}}
	switch {
	case att.Gateway != "":
		address["gateway"] = att.Gateway
		all := "::/0"
		if p.Addr().Is4() {
			all = "0.0.0.0/0"
		}
		ipam["routes"] = []object{{"dst": all, "gw": att.Gateway}}
	case att.Type == network.PTP: // the host's end has an address, too
		address["gateway"] = hostEnd(p).String()
	}
	return ipam
}

// hostEnd is the first address of a range that is not the clone's.
func hostEnd(p netip.Prefix) netip.Addr {
	first := p.Masked().Addr()
	if p.Bits() < p.Addr().BitLen()-1 {
		first = first.Next() // RFC 3021: ranges of two addresses have no other
	}
	if first == p.Addr() {
		return first.Next()
	}
	return first
}

func forCNI(att Attachment, path string) cni.Attachment {
	c := cni.Attachment{ContainerID: att.ID, NetNS: path, IfName: att.IfName}
	if att.MAC != "" {
		c.Args = [][2]string{{"IgnoreUnknown", "1"}, {"MAC", att.MAC}}
	}
	return c
}

func (a *Attacher) run(ctx context.Context, att Attachment, path string) (*types100.Result, error) {
	conf, err := a.conf(att)
	if err != nil {
		return nil, err
	}
	return a.plugins.Add(ctx, conf, forCNI(att, path))
}
