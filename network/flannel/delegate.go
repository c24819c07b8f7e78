package flannel

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/types"
)

// DefaultDataDir is where the plugin keeps what it delegated.
const DefaultDataDir = "/var/lib/cni/flannel"

type object = map[string]any

// Conf is the configuration of a plugin of type flannel.
type Conf struct {
	Name          string `json:"name"`
	CNIVersion    string `json:"cniVersion"`
	SubnetFile    string `json:"subnetFile"`
	DataDir       string `json:"dataDir"`
	IPAM          object `json:"ipam"`
	Delegate      object `json:"delegate"`
	RuntimeConfig object `json:"runtimeConfig"`
	PrevResult    object `json:"prevResult"`
}

// ParseConf reads a configuration and fills in the plugin's defaults.
func ParseConf(doc []byte) (Conf, error) {
	c := Conf{SubnetFile: DefaultSubnetFile, DataDir: DefaultDataDir}
	if err := json.Unmarshal(doc, &c); err != nil {
		return c, fmt.Errorf("read flannel configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if _, ok := c.Delegate["type"].(string); !ok && c.Delegate["type"] != nil {
		return c, fmt.Errorf("read flannel configuration: delegate.type is no string: %w", errdefs.ErrInvalidArgument)
	}
	for _, key := range []string{"name", "ipam"} {
		if _, ok := c.Delegate[key]; ok {
			return c, fmt.Errorf("read flannel configuration: delegate.%s is flannel's to set: %w", key, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}

// DelegateTypes are the plugins that do the work.
func (c Conf) DelegateTypes() []string {
	types := []string{"bridge", "host-local"}
	if t, ok := c.Delegate["type"].(string); ok {
		types[0] = t
	}
	if t, ok := c.IPAM["type"].(string); ok {
		types[1] = t
	}
	return types
}

// Render returns the configuration that flannel's plugin, version 0.9.1 of
// containernetworking/plugins, delegates to. The test compares both.
func (c Conf) Render(env Env) ([]byte, error) {
	d := object{"type": "bridge", "ipMasq": !env.IPMasq, "mtu": env.MTU}
	for k, v := range c.Delegate {
		d[k] = v
	}
	if _, ok := d["isGateway"]; !ok && d["type"] == "bridge" {
		d["isGateway"] = true
	}
	if c.RuntimeConfig != nil {
		d["runtimeConfig"] = c.RuntimeConfig
	}
	if c.CNIVersion != "" {
		d["cniVersion"] = c.CNIVersion
	}
	d["name"] = c.Name
	var err error
	if d["ipam"], err = c.renderIPAM(env); err != nil {
		return nil, err
	}
	return json.Marshal(d)
}

func (c Conf) renderIPAM(env Env) (object, error) {
	ipam := object{"type": "host-local"}
	for k, v := range c.IPAM {
		ipam[k] = v
	}
	routes := []types.Route{}
	if given, ok := c.IPAM["routes"]; ok {
		doc, err := json.Marshal(given)
		if err == nil {
			err = json.Unmarshal(doc, &routes)
		}
		if err != nil {
			return nil, fmt.Errorf("read flannel configuration: ipam.routes: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	var ranges [][]object
	for _, p := range []netip.Prefix{env.Subnet, env.IPv6Subnet} {
		if p.IsValid() {
			ranges = append(ranges, []object{{"subnet": p.String()}})
		}
	}
	for _, p := range []netip.Prefix{env.Network, env.IPv6Network} {
		if p.IsValid() {
			routes = append(routes, types.Route{Dst: net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}})
		}
	}
	ipam["ranges"], ipam["routes"] = ranges, routes
	return ipam, nil
}
