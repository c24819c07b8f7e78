package main

import (
	"context"
	"slices"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/cni"
)

// openCNI attaches clones to the CNI network of the configuration.
func (d *daemon) openCNI(ctx context.Context) (network.Provider, error) {
	conf, err := d.cniConf()
	if err != nil {
		return nil, err
	}
	return cni.Open(ctx, cni.Options{
		StateDir: d.cfg.State, BinDirs: d.pluginDirs(), Networks: []cni.Conf{conf}, Log: d.log,
	})
}

func (d *daemon) cniConf() (cni.Conf, error) {
	if file := d.cfg.Network.Conflist; file != "" {
		return cni.Read(file, false)
	}
	return cni.Find(d.confDirs(), d.cfg.Network.Use)
}

// confDirs are where the configurations of CNI networks are.
func (d *daemon) confDirs() (dirs []cni.Dir) {
	for _, path := range d.cfg.Network.ConfDirs {
		dirs = append(dirs, cni.Dir{Path: path})
	}
	for _, path := range d.cfg.Network.SharedConfDirs {
		dirs = append(dirs, cni.Dir{Path: path, Shared: true})
	}
	return dirs
}

// pluginDirs are where CNI plugins are looked for: what the host has installed
// is as good as ours.
func (d *daemon) pluginDirs() []string {
	return slices.Concat(d.cfg.Network.BinDirs, d.programs(), cni.DefaultBinDirs)
}
