package containerd

import (
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// The plugin by which ctrsnap gets hold of the containerd around it.
const (
	pluginType plugin.Type = "io.ctrsnap.client.v1"
	pluginID   string      = "client"

	// sandboxer is containerd's controller of sandboxes that are shims.
	sandboxer = "shim"
)

// uri is how containerd's configuration names a plugin.
func uri(t plugin.Type, id string) string { return t.String() + "." + id }

// register adds our two plugins to containerd's registry: the snapshotter, in
// place of containerd's own plugin of that name, and the one that takes a client.
func (e *embedded) register(o Options) (err error) {
	defer func() {
		// The registry's only answer to a second registration is a panic.
		if r, ok := recover().(error); ok && errors.Is(r, plugin.ErrIDRegistered) {
			err = fmt.Errorf("this process has started one already: %w", errdefs.ErrFailedPrecondition)
		} else if r != nil {
			panic(r)
		}
	}()
	registry.Register(&plugin.Registration{
		Type:   plugins.SnapshotPlugin,
		ID:     snapshot.Snapshotter,
		InitFn: func(ic *plugin.InitContext) (any, error) { return e.initSnapshotter(ic, o) },
	})
	registry.Register(&plugin.Registration{
		Type: pluginType,
		ID:   pluginID,
		// What client.WithInMemoryServices takes, and the metadata.
		Requires: []plugin.Type{
			plugins.EventPlugin, plugins.LeasePlugin, plugins.SandboxStorePlugin, plugins.TransferPlugin,
			plugins.MountManagerPlugin, plugins.ServicePlugin, plugins.MetadataPlugin, plugins.SandboxControllerPlugin,
		},
		InitFn: e.initClient,
	})
	return nil
}

// initSnapshotter opens the snapshotter and says what it can do, as containerd's
// plugin does.
func (e *embedded) initSnapshotter(ic *plugin.InitContext, o Options) (any, error) {
	root := ic.Properties[plugins.PropertyRootDir]
	remap, err := overlayutils.SupportsIDMappedMounts()
	remap = remap && err == nil
	if e.snapshotter, err = overlay.New(root, overlay.Options{RemapIDs: remap}); err != nil {
		return nil, err
	}
	clean := e.snapshotter.Cleanup // what was being made when an earlier process was killed
	if o.Recover {
		clean = e.snapshotter.Recover
	}
	if err := clean(ic.Context); err != nil && !errdefs.IsNotFound(err) { // there were no snapshots yet
		return nil, err
	}
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	ic.Meta.Capabilities = []string{snapshots.RebaseCap, "only-remap-ids"}
	if remap {
		ic.Meta.Capabilities = append(ic.Meta.Capabilities, "remap-ids")
	}
	ic.Meta.Exports[plugins.SnapshotterRootDir] = root
	return e.snapshotter, nil
}

// initClient takes a client that calls the services of this process directly.
func (e *embedded) initClient(ic *plugin.InitContext) (any, error) {
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	e.metadata = db.(*metadata.DB)
	// The client for in-memory services lacks it.
	controller, err := ic.GetByID(plugins.SandboxControllerPlugin, sandboxer)
	if err != nil {
		return nil, err
	}
	e.sandboxes = controller.(sandbox.Controller)
	e.client, err = client.New("",
		client.WithDefaultNamespace(snapshot.Namespace),
		client.WithDefaultPlatform(platforms.Default()),
		client.WithInMemoryServices(ic))
	return e.client, err
}
