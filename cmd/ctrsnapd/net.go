package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/ctrsnap/ctrsnap/network/attach"
	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/network/none"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
)

var _ server.Networks = (*daemon)(nil)

// isolationLease is the isolation of a network whose clones reach their own lease.
const isolationLease = "lease"

// openAttach opens what gives clones further interfaces.
func (d *daemon) openAttach() (err error) {
	d.attach, err = attach.Open(attach.Options{Dir: d.state("attach"), BinDirs: d.pluginDirs(), Log: d.log, Failpoint: d.failpoints.Of("attach")})
	return err
}

// isNetworkAdmin looks the group up each time: members come and go.
func (d *daemon) isNetworkAdmin(caller server.Caller) bool {
	name := d.cfg.Network.AdminGroup
	if name == "" || !caller.Known() {
		return false
	}
	group, err := user.LookupGroup(name)
	if err != nil {
		d.log.Warn("look up network.admin_group", "group", name, "error", err)
		return false
	}
	who, err := user.LookupId(strconv.Itoa(caller.UID()))
	if err != nil {
		return strconv.Itoa(caller.Group()) == group.Gid
	}
	gids, err := who.GroupIds()
	return err == nil && slices.Contains(gids, group.Gid)
}

// Networks lists the networks that clones can be attached to by name.
func (d *daemon) Networks(ctx context.Context) (api.Networks, error) {
	var list api.Networks
	own := api.Network{Name: "default", Kind: "bridge", Default: true, Isolation: isolationLease, Detail: fmt.Sprint(d.network)}
	if d.cfg.Network.Conflist+d.cfg.Network.Use != "" {
		conf, err := d.cniConf()
		if err != nil {
			return list, err
		}
		own = d.describeConf(ctx, conf)
		own.Name, own.Default, own.Detail = "default", true, fmt.Sprint(d.network)
	}
	list.Networks = append(list.Networks, own, api.Network{Name: none.Name, Kind: none.Name, Isolation: "all", Detail: "reached by the unix socket only"})
	confs, err := d.confs().List()
	if err != nil {
		list.Problems = strings.Split(err.Error(), "\n")
	}
	for _, c := range confs {
		list.Networks = append(list.Networks, d.describeConf(ctx, c))
	}
	if conf, err := d.confs().Find("flannel"); err == nil && conf.Path == "" {
		if _, err := os.Stat(d.cfg.Network.FlannelFile); err == nil {
			list.Networks = append(list.Networks, d.describeConf(ctx, conf))
		}
	}
	return list, nil
}

func (d *daemon) describeConf(ctx context.Context, c cni.Conf) api.Network {
	n := api.Network{Name: c.Name, Kind: "cni", File: c.Path, Shared: c.Shared, Isolation: isolationLease}
	if c.Flannel() {
		n.Kind = "flannel"
	}
	var err error
	if n.Plugins, err = c.PluginTypes(); err == nil {
		err = cni.NewPlugins(d.state("status"), d.pluginDirs()).Status(ctx, c)
	}
	if err != nil {
		n.Problem = err.Error()
		var hinted interface{ Hint() string }
		if errors.As(err, &hinted) {
			n.Problem += " (" + hinted.Hint() + ")"
		}
	}
	return n
}
