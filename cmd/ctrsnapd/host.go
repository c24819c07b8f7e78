package main

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/ctrsnap/ctrsnap/cmd/internal/version"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/host"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// openHost tells what the doctor looks at and what can be left behind.
func (d *daemon) openHost() {
	parts := d.parts()
	d.host = host.New(host.Options{
		Version: api.Version{
			Schema: api.Schema, Version: version.Version, Commit: version.Commit,
			Protocol: api.Protocol, MinProtocol: api.MinProtocol,
			Containerd: d.containerd.Version(), Embedded: d.containerd.Embedded(),
		},
		Checks: []host.Check{
			host.CheckGroup(d.cfg.API.Group, d.cfg.API.Socket),
			host.CheckStorage(d.storage, d.containerd), host.CheckContainerd(d.containerd), host.One(runner.CheckRunc(d.runc())),
			host.Verified("network", d.network), host.CheckCgroups, host.One(d.users.Check), host.One(d.manager.CheckIsolation), host.One(d.goldens.Check), d.checkNames,
		},
		Mends: []host.Check{host.MendStorage(d.storage, int64(d.cfg.Storage.Size)), host.MendPool(d.manager.RefreshPool)},
		Kinds: parts.Kinds(), Owners: parts.Owners, Log: d.log,
	})
}

// parts have what can be left behind.
func (d *daemon) parts() *host.Parts {
	p := &host.Parts{
		Dirs:   d.dirs(),
		Runner: d.runner, Store: d.store, Network: d.network, Ports: d.publish, Interfaces: d.attach,
		Clones: d.manager, Builds: d.builder, Sandboxes: d.sandboxIDs,
	}
	p.Storage = d.storage.Dir()
	if d.containerd.Embedded() {
		p.Address = d.containerd.Address()
	}
	if d.bridge != nil {
		p.Rules = d.bridge
	}
	return p
}

func (d *daemon) sandboxIDs(ctx context.Context) (ids []string, err error) {
	list, err := d.containerd.Client().SandboxStore().List(namespaces.WithNamespace(ctx, snapshot.Namespace))
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	return ids, err
}

// checkNames looks whether clones find each other by name, where they are to. That is known when clones can be made.
func (d *daemon) checkNames(ctx context.Context) []api.Check {
	if d.names == nil {
		return nil
	}
	return host.Verified("names", d.names)(ctx)
}
