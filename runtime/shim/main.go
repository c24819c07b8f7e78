package shim

import (
	"context"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
)

// Main is the shim's program. It ends the process on an error.
func Main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   initService,
	})
	shim.RunShim(context.Background(), Manager{}, func(c *shim.Config) {
		// Each process is reaped by whoever waits for it, and what it leaves behind
		// belongs to the first process of its PID namespace.
		c.NoReaper = true
		c.NoSubreaper = true
	})
}

func initService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	return New(ic.Context, publisher.(shim.Publisher), sd.(shutdown.Service))
}
