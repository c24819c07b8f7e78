package cni

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/bridge"
)

type object = map[string]any

// defaultConflist configures the default network. The bridge and its address
// are ours and not the plugin's, because isGateway would make the host a
// router (net.ipv4.ip_forward). There is no route but to the subnet, and
// isolated ports talk to the host only.
func defaultConflist(b *bridge.Bridge, dataDir string) (*libcni.NetworkConfigList, error) {
	doc, err := json.Marshal(object{
		"cniVersion": "1.0.0",
		"name":       "ctrsnap",
		"plugins": []object{{
			"type": "bridge", "bridge": b.Name, "portIsolation": true,
			"ipam": object{
				"type": "host-local", "dataDir": dataDir,
				"ranges": [][]object{{{"subnet": b.Subnet.String()}}},
			},
		}},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(doc)
}

// parseConflist reads a configuration of the user's.
func parseConflist(doc []byte, dataDir string) (*libcni.NetworkConfigList, error) {
	doc, err := setDataDir(doc, dataDir)
	if err != nil {
		return nil, badConflist(err)
	}
	list, err := libcni.NetworkConfFromBytes(doc)
	if err != nil {
		return nil, badConflist(err)
	}
	if len(list.Plugins) == 0 {
		return nil, badConflist(fmt.Errorf("it has no plugins"))
	}
	return list, nil
}

func badConflist(err error) error {
	return network.WithHint(
		fmt.Errorf("read CNI configuration: %w: %w", err, errdefs.ErrInvalidArgument),
		"a conflist is a JSON object with cniVersion, name and a list of plugins, each with a type")
}

// setDataDir gives host-local a directory below our state: its default one
// survives reboots, and reservations there would never be freed.
func setDataDir(doc []byte, dataDir string) ([]byte, error) {
	var list object
	if err := json.Unmarshal(doc, &list); err != nil {
		return nil, err
	}
	plugins, _ := list["plugins"].([]any)
	for _, p := range plugins {
		plugin, _ := p.(object)
		ipam, _ := plugin["ipam"].(object)
		if ipam["type"] == "host-local" && ipam["dataDir"] == nil {
			ipam["dataDir"] = dataDir
		}
	}
	return json.Marshal(list)
}

// pluginTypes lists the programs that a network runs.
func pluginTypes(list *libcni.NetworkConfigList) []string {
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
		if ipam := p.Network.IPAM.Type; ipam != "" {
			types = append(types, ipam)
		}
	}
	return types
}

// checkPlugins says at once what Add would say much later.
func (n *Network) checkPlugins(types []string) error {
	for _, t := range types {
		if _, err := invoke.FindInPath(t, n.opts.BinDirs); err != nil {
			return network.WithHint(
				fmt.Errorf("find CNI plugin %q: %w", t, errdefs.ErrFailedPrecondition), n.pluginHint())
		}
	}
	return nil
}
