package host

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/network/none"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// isolationLease is the isolation of a network whose clones reach their own lease.
const isolationLease = "lease"

// Networks are those that clones can be attached to by name.
type Networks struct {
	Default fmt.Stringer
	// Conf is the configuration of the default one, if a CNI network is it; else nil.
	Conf    func() (cni.Conf, error)
	Confs   cni.Confs
	Plugins *cni.Plugins
}

// Networks lists them. What is wrong with one is told beside it.
func (n Networks) Networks(ctx context.Context, caller access.Caller) (api.Networks, error) {
	if err := caller.CheckKnown("list networks"); err != nil {
		return api.Networks{}, err
	}
	var list api.Networks
	own := api.Network{Kind: "bridge", Isolation: isolationLease}
	if n.Conf != nil {
		conf, err := n.Conf()
		if err != nil {
			return list, err
		}
		own = n.describe(ctx, conf)
	}
	own.Name, own.Default, own.Detail = "default", true, n.Default.String()
	list.Networks = append(list.Networks, own, api.Network{Name: none.Name, Kind: none.Name, Isolation: "all", Detail: "reached by the unix socket only"})
	confs, err := n.Confs.List()
	if err != nil {
		list.Problems = strings.Split(err.Error(), "\n")
	}
	for _, c := range confs {
		list.Networks = append(list.Networks, n.describe(ctx, c))
	}
	if conf, err := n.Confs.Find("flannel"); err == nil && conf.Path == "" {
		if _, err := os.Stat(n.Confs.FlannelFile); err == nil {
			list.Networks = append(list.Networks, n.describe(ctx, conf))
		}
	}
	return list, nil
}

func (n Networks) describe(ctx context.Context, c cni.Conf) api.Network {
	d := api.Network{Name: c.Name, Kind: "cni", File: c.Path, Shared: c.Shared, Isolation: isolationLease}
	if c.Flannel() {
		d.Kind = "flannel"
	}
	var err error
	if d.Plugins, err = c.PluginTypes(); err == nil {
		err = n.Plugins.Status(ctx, c)
	}
	if err != nil {
		d.Problem = err.Error()
		if hint := hintOf(err); hint != "" {
			d.Problem += " (" + hint + ")"
		}
	}
	return d
}
