package main

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/cni"
	"github.com/ctrsnap/ctrsnap/network/named"
	"github.com/ctrsnap/ctrsnap/network/none"
	"github.com/ctrsnap/ctrsnap/network/pool"
)

// namedAhead is how many namespaces wait for clones on networks that are asked
// for by name. Each holds an address of a network that may have few.
const namedAhead = 2

// openCNI attaches clones to the CNI network of the configuration.
func (d *daemon) openCNI(ctx context.Context) (network.Provider, error) {
	conf, err := d.cniConf()
	if err != nil {
		return nil, err
	}
	return cni.Open(ctx, cni.Options{
		StateDir: d.cfg.State, BinDirs: d.pluginDirs(), Networks: []cni.Conf{conf}, Log: d.log, Failpoint: d.failpoints.Of("cni"),
	})
}

func (d *daemon) cniConf() (cni.Conf, error) {
	if file := d.cfg.Network.Conflist; file != "" {
		return cni.Read(file, false)
	}
	return d.confs().Find(d.cfg.Network.Use)
}

// openNamed opens CNI networks that a clone asks for. What was found by name
// when they were first used is kept: their clones can be removed when it is gone.
func (d *daemon) openNamed(ctx context.Context, dir string, names []string) (named.Network, error) {
	inner, err := d.namedProvider(ctx, dir, names)
	if err != nil {
		return nil, err
	}
	return pool.Open(ctx, inner, pool.Options{Dir: filepath.Join(dir, "pool"), Size: min(namedAhead, d.cfg.Network.Ahead), Log: d.log, Failpoint: d.failpoints.Of("netpool")})
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
	return cni.Open(ctx, cni.Options{StateDir: dir, BinDirs: d.pluginDirs(), Networks: confs, Log: d.log, Failpoint: d.failpoints.Of("cni")})
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
