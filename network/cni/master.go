package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"

	"github.com/ctrsnap/ctrsnap/network"
)

// children are the plugins whose interfaces are children of one of the host's,
// called "master" in their configuration.
var children = []string{"macvlan", "ipvlan", "vlan"}

// missingMaster names the interface that the host lacks: what these plugins say
// of it is "Link not found".
func missingMaster(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		var conf struct {
			Master          string
			LinkInContainer bool // then it is none of the host's
		}
		if json.Unmarshal(p.Bytes, &conf) != nil || conf.Master == "" || conf.LinkInContainer || !slices.Contains(children, p.Network.Type) {
			continue
		}
		if _, err := net.InterfaceByName(conf.Master); err != nil {
			return network.WithHint(
				fmt.Errorf("network %s: find interface %s of the host for plugin %s: %w", list.Name, conf.Master, p.Network.Type, errdefs.ErrNotFound),
				"'ip link' lists the interfaces")
		}
	}
	return nil
}
