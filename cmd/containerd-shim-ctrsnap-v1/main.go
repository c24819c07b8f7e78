// Command containerd-shim-ctrsnap-v1 is the shim of containerd's runtime
// io.containerd.ctrsnap.v1. containerd starts it.
package main

import (
	"context"

	containerd "github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/ctrsnap/ctrsnap/runtime/shim"
)

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   service,
	})
	containerd.RunShim(context.Background(), shim.Manager{}, func(c *containerd.Config) {
		// Each process is reaped by whoever waits for it, and what it leaves behind
		// belongs to the first process of its PID namespace.
		c.NoReaper = true
		c.NoSubreaper = true
	})
}

func service(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	return shim.New(ic.Context, publisher.(containerd.Publisher), sd.(shutdown.Service))
}
