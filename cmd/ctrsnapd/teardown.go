package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
)

// tearDown ends everything that outlives a daemon: clones, the network, mounts
// and the state directory. The root directory with its goldens stays.
func tearDown(ctx context.Context, cfg config.Config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	d := &daemon{cfg: cfg, log: slog.Default()}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, d.close(ctx))
		}
	}()
	if err := d.open(ctx); err != nil {
		return err
	}
	if err := d.removeClones(ctx); err != nil {
		return err
	}
	if err := errors.Join(d.publish.Teardown(ctx), d.attach.Teardown(ctx), d.network.Teardown(ctx), d.runner.Teardown()); err != nil {
		return err
	}
	closed = true
	if err := d.close(ctx); err != nil {
		return err
	}
	if err := errors.Join(d.storage.Unmount(ctx), d.dirs().UnmountRunDirs(), containerd.UnmountState(d.state("containerd")), containerd.UnmountState(cfg.State)); err != nil {
		return err
	}
	if err := os.RemoveAll(cfg.State); err != nil {
		return fmt.Errorf("remove state directory: %w", err)
	}
	return nil
}

func (d *daemon) removeClones(ctx context.Context) error {
	clones, err := d.manager.List(ctx, access.Daemon, nil)
	if err != nil {
		return err
	}
	d.manager.EmptyPool()
	for _, c := range clones {
		err = errors.Join(err, d.manager.Remove(ctx, access.Daemon, c.ID, true))
	}
	err = errors.Join(err, d.manager.Drain(ctx))
	if d.shims != nil {
		err = errors.Join(err, d.shims.Drain(namespaces.WithNamespace(ctx, snapshot.Namespace)))
	}
	return err
}
