package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/attach"
	"github.com/ctrsnap/ctrsnap/network/bridge"
	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/network/named"
	"github.com/ctrsnap/ctrsnap/network/netns"
	"github.com/ctrsnap/ctrsnap/network/none"
	"github.com/ctrsnap/ctrsnap/network/pool"
	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/host"
)

// namedAhead is how many namespaces wait for clones on networks that are asked
// for by name. Each holds an address of a network that may have few.
const namedAhead = 2

// openNetwork attaches clones to the network of the configuration: the user's
// CNI network, or a bridge of our own. Either way namespaces are made ahead.
func (d *daemon) openNetwork(ctx context.Context) error {
	var inner network.Provider
	var err error
	if d.hasConf() {
		inner, err = d.openCNI(ctx)
	} else {
		inner, err = d.openBridge(ctx)
	}
	if err != nil {
		return err
	}
	def, err := d.ahead(ctx, inner, d.state("pool"), d.cfg.Network.Ahead)
	if err != nil {
		return err
	}
	d.network, err = named.Open(ctx, named.Options{Dir: d.state("networks"), Default: def, Open: d.openNamed, Log: d.log})
	if err != nil {
		return err
	}
	d.attach, err = attach.Open(attach.Options{Dir: d.state("attach"), BinDirs: d.pluginDirs(), Log: d.log, Failpoint: d.failpoints.Of("attach")})
	if err != nil {
		return err
	}
	d.publish, err = publish.Open(ctx, publish.Options{Dir: d.state("publish"), Program: d.program("ctrsnap-proxy"), Log: d.log, Failpoint: d.failpoints.Of("publish")})
	return err
}

// ahead makes namespaces of a network ahead.
func (d *daemon) ahead(ctx context.Context, inner network.Provider, dir string, size int) (*pool.Pool, error) {
	return pool.Open(ctx, inner, pool.Options{Dir: dir, Size: size, Log: d.log, Failpoint: d.failpoints.Of("netpool")})
}

func (d *daemon) openBridge(ctx context.Context) (network.Provider, error) {
	opts := bridge.Options{StateDir: d.cfg.State, Bridge: d.cfg.Network.Bridge, Log: d.log, Failpoint: d.failpoints.Of("bridge")}
	if s := d.cfg.Network.Subnet; s != "" {
		var err error
		if opts.Subnet, err = netip.ParsePrefix(s); err != nil {
			return nil, fmt.Errorf("network.subnet: %w", err)
		}
	}
	var err error
	d.bridge, err = bridge.Open(ctx, opts)
	return d.bridge, err
}

// hasConf says whether a CNI network takes the place of the bridge.
func (d *daemon) hasConf() bool { return d.cfg.Network.Conflist+d.cfg.Network.Use != "" }

func (d *daemon) conf() (cni.Conf, error) {
	if file := d.cfg.Network.Conflist; file != "" {
		return cni.Read(file, false)
	}
	return d.confs().Find(d.cfg.Network.Use)
}

func (d *daemon) openCNI(ctx context.Context) (network.Provider, error) {
	conf, err := d.conf()
	if err != nil {
		return nil, err
	}
	return d.cni(ctx, d.cfg.State, conf)
}

func (d *daemon) cni(ctx context.Context, dir string, confs ...cni.Conf) (network.Provider, error) {
	return cni.Open(ctx, cni.Options{StateDir: dir, BinDirs: d.pluginDirs(), Networks: confs, Log: d.log, Failpoint: d.failpoints.Of("cni")})
}

// openNamed opens CNI networks that a clone asks for. What was found by name
// when they were first used is kept: their clones can be removed when it is gone.
func (d *daemon) openNamed(ctx context.Context, dir string, names []string) (named.Network, error) {
	inner, err := d.namedProvider(ctx, dir, names)
	if err != nil {
		return nil, err
	}
	return d.ahead(ctx, inner, filepath.Join(dir, "pool"), min(namedAhead, d.cfg.Network.Ahead))
}

func (d *daemon) namedProvider(ctx context.Context, dir string, names []string) (network.Provider, error) {
	if slices.Equal(names, []string{none.Name}) {
		return none.Open(dir)
	}
	confs := make([]cni.Conf, len(names))
	for i, name := range names {
		var err error
		if confs[i], err = d.confs().FindOrKept(name, filepath.Join(dir, "conf")); err != nil {
			return nil, err
		}
	}
	return d.cni(ctx, dir, confs...)
}

// confs are the configurations of CNI networks.
func (d *daemon) confs() cni.Confs {
	c := cni.Confs{FlannelFile: d.cfg.Network.FlannelFile}
	for _, path := range d.cfg.Network.ConfDirs {
		c.Dirs = append(c.Dirs, cni.Dir{Path: path})
	}
	for _, path := range d.cfg.Network.SharedConfDirs {
		c.Dirs = append(c.Dirs, cni.Dir{Path: path, Shared: true})
	}
	return c
}

// pluginDirs are where CNI plugins are looked for: what the host has installed
// is as good as ours.
func (d *daemon) pluginDirs() []string {
	return slices.Concat(d.cfg.Network.BinDirs, d.programs(), cni.DefaultBinDirs)
}

// networks are those that clones can ask for by name.
func (d *daemon) networks() host.Networks {
	n := host.Networks{Default: d.network, Confs: d.confs(), Plugins: cni.NewPlugins(d.state("status"), d.pluginDirs())}
	if d.hasConf() {
		n.Conf = d.conf
	}
	return n
}

// openNames begins to answer for the names of clones. Clones do without where that cannot be.
func (d *daemon) openNames(ctx context.Context) {
	if d.zone() == "" {
		return
	}
	forward, _ := d.cfg.Network.Forward() // it was checked with the configuration
	opts := dns.Options{Log: d.log, Forward: forward, IsContainer: new(netns.Containers).Have}
	d.names = dns.Open(ctx, d.manager, d.bridge.Gateways, d.state("resolv"), opts)
}

// zone is where names of clones are answered, or "".
func (d *daemon) zone() string {
	if d.bridge == nil || !d.cfg.Network.DNS {
		return ""
	}
	return dns.Domain
}

// resolvConf returns the resolv.conf of a clone with an address, or "".
func (d *daemon) resolvConf(ctx context.Context, addr netip.Addr) string {
	return d.names.ResolvConf(ctx, addr)
}

// isNetworkAdmin says whether a caller may attach clones to interfaces of the host.
func (d *daemon) isNetworkAdmin(caller access.Caller) bool {
	is, err := caller.IsMember(d.cfg.Network.AdminGroup)
	if err != nil {
		d.log.Warn("network.admin_group", "error", err)
	}
	return is
}
