package main

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/ctrsnap/ctrsnap/runtime/shim/sandboxes"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Values of containerd.runtime.
const (
	runtimeOwn  = "ctrsnap"
	runtimeRunc = "runc"
)

// openShims takes over the shims that serve many clones each. With the host's
// containerd, which does not know our runtime, there are none.
func (d *daemon) openShims(ctx context.Context) error {
	if d.cfg.Containerd.Runtime == runtimeRunc || !d.containerd.Embedded() {
		return nil
	}
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	client := d.containerd.Client()
	list, err := client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	used := map[string]int{}
	for _, c := range list {
		if c.SandboxID != "" {
			used[c.SandboxID]++
		}
	}
	d.shims = sandboxes.New(client.SandboxStore(), d.containerd.Sandboxes(), sandboxes.Options{Failpoint: d.failpoints.Of("shim")})
	return d.shims.Recover(ctx, used)
}
