package cni

import (
	"encoding/json"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"

	"github.com/ctrsnap/ctrsnap/network/flannel"
)

type object = map[string]any

// PluginTypes lists the programs that the network runs.
func (c Conf) PluginTypes() ([]string, error) {
	list, err := c.current()
	if err != nil {
		return nil, err
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
		if ipam := p.Network.IPAM.Type; ipam != "" && p.Network.Type != flannel.Type {
			types = append(types, ipam)
		}
		if p.Network.Type == flannel.Type {
			f, err := flannel.ParseConf(p.Bytes)
			if err != nil {
				return nil, err
			}
			types = append(types, f.DelegateTypes()...)
		}
	}
	return types, nil
}

// current returns what plugins are to be called with now.
func (c Conf) current() (*libcni.NetworkConfigList, error) {
	if c.list != nil {
		return c.list, nil
	}
	delegate := object{"isDefaultGateway": true, "hairpinMode": true}
	if env, err := c.leases[0].Current(); err == nil { // else the plugin says so
		delegate["bridge"] = flannelBridge(env)
	}
	// The last version that flannel's plugin of containernetworking/plugins knows.
	list := &libcni.NetworkConfigList{Name: c.Name, CNIVersion: "0.4.0"}
	return rebuild(list, []object{c.keep(object{
		"type": flannel.Type, "subnetFile": c.leases[0].Path, "delegate": delegate,
	})})
}

// keptIn returns the configuration with plugins' records below dir: their own
// places survive reboots, and reservations there would never be freed.
func (c Conf) keptIn(dir string) (Conf, error) {
	if !c.Shared {
		c.dataDir = dir
	}
	if c.list == nil {
		return c, nil
	}
	var err error
	c.list, err = c.whole()
	return c, err
}

// whole returns the network with all plugins and their directories in one
// document.
func (c Conf) whole() (*libcni.NetworkConfigList, error) {
	plugins := make([]object, len(c.list.Plugins))
	for i, p := range c.list.Plugins {
		if err := json.Unmarshal(p.Bytes, &plugins[i]); err != nil {
			return nil, badConf(c.Path, err)
		}
		plugins[i] = c.keep(plugins[i])
	}
	list, err := rebuild(c.list, plugins)
	if err != nil {
		return nil, badConf(c.Path, err)
	}
	return list, nil
}

// keep sets the directories of a plugin that says nothing of them.
func (c Conf) keep(plugin object) object {
	if c.dataDir == "" {
		return plugin
	}
	ipam, _ := plugin["ipam"].(object)
	if plugin["type"] == flannel.Type {
		if ipam == nil {
			ipam = object{"type": "host-local"}
			plugin["ipam"] = ipam
		}
		setMissing(plugin, "dataDir", filepath.Join(c.dataDir, "flannel"))
	}
	if ipam["type"] == "host-local" {
		setMissing(ipam, "dataDir", filepath.Join(c.dataDir, "ipam"))
	}
	return plugin
}

func setMissing(o object, key, value string) {
	if o[key] == nil {
		o[key] = value
	}
}

// rebuild returns a network with other plugins. Its Bytes hold all of it, also
// plugins that came from files of their own: libcni keeps them with each
// attachment.
func rebuild(list *libcni.NetworkConfigList, plugins []object) (*libcni.NetworkConfigList, error) {
	doc := object{}
	if list.Bytes != nil {
		if err := json.Unmarshal(list.Bytes, &doc); err != nil {
			return nil, err
		}
	}
	delete(doc, "cniVersions") // chosen from
	doc["name"], doc["cniVersion"], doc["plugins"] = list.Name, list.CNIVersion, plugins
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(b)
}
