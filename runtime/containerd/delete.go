package containerd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Delete kills what runs in the container with SIGKILL, removes its task and
// then its record. The record goes last: whatever interrupts, a later Delete
// goes on. The snapshot stays.
func (r *Runner) Delete(ctx context.Context, id string) error {
	ctx, cancel := r.begin(ctx)
	defer cancel()
	container, err := r.client.LoadContainer(ctx, id)
	if errdefs.IsNotFound(err) {
		return errors.Join(r.removeRecord(id), r.cgroup.remove(ctx, path.Join(r.opts.CgroupPath, id))) // it may have been reserved
	}
	if err != nil {
		return fmt.Errorf("load container %s: %w", id, err)
	}
	defer r.forget(ctx, id)
	info, err := container.Info(ctx, client.WithoutRefreshedMetadata)
	if err != nil {
		return fmt.Errorf("load container %s: %w", id, err)
	}
	sandbox := info.SandboxID
	if err := r.deleteTask(ctx, container); err != nil {
		return fmt.Errorf("delete task %s: %w", id, err)
	}
	if err := r.opts.Failpoint("ended"); err != nil {
		return fmt.Errorf("delete record of container %s: %w", id, err)
	}
	err = r.client.ContainerService().Delete(ctx, id)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete record of container %s: %w", id, err)
	}
	if err := r.removeRecord(id); err != nil {
		return fmt.Errorf("delete record of container %s: %w", id, err)
	}
	if err == nil {
		_ = r.opts.Failpoint("deleted") // there is no way back
		r.release(ctx, sandbox)
	}
	return nil
}

// deleteTask deletes the task and what a shim leaves behind that died, or that
// was killed before it made one.
func (r *Runner) deleteTask(ctx context.Context, container client.Container) error {
	t, err := container.Task(ctx, cio.Load)
	if err == nil {
		_, err = t.Delete(ctx, client.WithProcessKill)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	var shim error
	if err != nil && r.opts.Address != "" { // containerd may have died before it knew its shim
		shim = KillShims(container.ID(), r.opts.Address)
	}
	leftovers := r.cgroup.remove(ctx, path.Join(r.opts.CgroupPath, container.ID()))
	if err == nil {
		return leftovers
	}
	return errors.Join(shim, leftovers, unmountBundle(container.ID()))
}

// unmountBundle unmounts the root filesystem that a shim mounted for container
// id. Where containerd keeps its bundles is its own affair (it may be the host's), so
// the mounts are found by the layout that all versions share.
func unmountBundle(id string) error {
	suffix := path.Join("/io.containerd.runtime.v2.task", snapshot.Namespace, id, "rootfs")
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasSuffix(m.Mountpoint, suffix), false
	})
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for _, m := range mounts {
		errs = append(errs, mount.UnmountRecursive(m.Mountpoint, 0))
	}
	return errors.Join(errs...)
}
