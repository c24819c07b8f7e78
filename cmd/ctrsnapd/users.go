package main

import (
	"context"
	"errors"
	"fmt"

	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
)

// Values of containerd.userns.
const (
	usersOn  = "on"
	usersOff = "off"
)

// openUsers has clones be in user namespaces, where the kernel and the storage can.
func (d *daemon) openUsers(ctx context.Context) (err error) {
	c := d.cfg.Containerd
	if c.UserNS == usersOff {
		d.withoutUsers = errors.New("containerd.userns is off")
		return nil
	}
	layers, err := d.containerd.SnapshotRoot(ctx)
	if err == nil {
		d.users, err = d.runner.MapUsers(ctx, runner.MapOptions{First: c.IDs, Layers: layers, RunDir: d.state("clones"), ViewsDir: d.state("mapped")})
	}
	if err == nil {
		return nil
	}
	if c.UserNS == usersOn {
		return fmt.Errorf("user namespaces, which containerd.userns wants: %w", err)
	}
	d.withoutUsers = err
	d.log.WarnContext(ctx, "clones have no user namespaces", "reason", err)
	return nil
}
