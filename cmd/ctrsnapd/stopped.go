package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/host"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// A storage whose filesystem has stopped, after its device had failed or gone, is mounted anew by a start, as after a
// loss of power: what was not synced is lost, so that goldens are those of the last checkpoint, and clones end. A file
// says so until the checkpoint knows.

// openAgain opens the storage, which may have stopped.
func (d *daemon) openAgain(ctx context.Context, opts storage.Options) (*storage.Storage, error) {
	lost := d.state("storage-stopped")
	if storage.IsStopped(opts.Dir, opts.Image) {
		d.log.WarnContext(ctx, "the filesystem of the storage has stopped: clones end, and it is mounted anew", "storage", opts.Dir)
		if err := errors.Join(os.WriteFile(lost, nil, 0o600), d.endUsers(ctx)); err != nil {
			return nil, fmt.Errorf("end what uses storage %s, which has stopped: %w", opts.Dir, err)
		}
	}
	s, err := storage.Open(ctx, opts)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(lost); errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err := os.Remove(filepath.Join(s.Dir(), "checkpoint", "boot")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forget what was not synced: %w", err)
	}
	return s, os.Remove(lost)
}

// endUsers ends what holds the storage: clones, which have lost their files, their shims, and mounts.
func (d *daemon) endUsers(ctx context.Context) error {
	r := runner.New(nil, runner.Options{CgroupPath: d.cfg.Containerd.Cgroup})
	ids, err := r.Cgroups()
	errs := []error{err}
	for _, id := range ids {
		errs = append(errs, r.RemoveCgroup(ctx, id))
	}
	address := d.state("containerd.sock")
	shims, err := runner.ShimIDs(address)
	errs = append(errs, err)
	for _, id := range shims {
		errs = append(errs, runner.KillShims(id, address))
	}
	roots, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.state("containerd")))
	errs = append(errs, err)
	for _, m := range roots {
		if host.OwnerOf(m.Mountpoint) != "" {
			errs = append(errs, mount.UnmountRecursive(m.Mountpoint, unix.MNT_DETACH))
		}
	}
	return errors.Join(errs...)
}
