package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// Values of containerd.userns.
const (
	usersOn  = "on"
	usersOff = "off"
)

const (
	idsOfClone = 1 << 16
	// idOfDaemon is what this process's root has in layers: nobody's, the last that there is.
	idOfDaemon = 1<<32 - 2
)

// openUsers has clones be in user namespaces, where the kernel and the storage can.
func (d *daemon) openUsers(ctx context.Context) error {
	mode := d.cfg.Containerd.UserNS
	if mode == usersOff {
		d.withoutUsers = "containerd.userns is off"
		return nil
	}
	err := d.mapUsers(ctx)
	if err == nil {
		return nil
	}
	if mode == usersOn {
		return fmt.Errorf("user namespaces, which containerd.userns wants: %w", err)
	}
	d.withoutUsers = err.Error()
	d.log.Warn("clones have no user namespaces", "reason", err)
	return nil
}

func (d *daemon) mapUsers(ctx context.Context) error {
	if d.shims == nil {
		return errors.New("only clones that ctrsnap's own runtime starts have them")
	}
	if err := d.checkIDs(); err != nil {
		return err
	}
	root, err := d.containerd.SnapshotRoot(ctx)
	if err != nil {
		return err
	}
	l, err := launch.New()
	if err != nil {
		return err
	}
	defer l.Close()
	clones := []specs.LinuxIDMapping{{ContainerID: 0, HostID: d.cfg.Containerd.IDs, Size: idsOfClone}}
	all := d.allIDs()
	ns, err := l.Namespace(launch.IDs{Users: all, Groups: all})
	if err != nil {
		return err
	}
	defer ns.Close()
	run := d.state("clones")
	if err := os.MkdirAll(run, 0o711); err != nil {
		return err
	}
	var views views
	for _, dir := range []string{root, run} {
		v, err := overlay.NewView(dir, d.state("mapped", filepath.Base(dir)), ns)
		if err != nil {
			return errors.Join(err, views.Close())
		}
		views = append(views, v)
	}
	users := &runner.Users{IDs: launch.IDs{Users: clones, Groups: clones}, Rootfs: views[0].Mounts, Source: views[1].Path}
	if err := d.runner.UseUsers(ctx, users, root, run); err != nil {
		return fmt.Errorf("try one: %w", errors.Join(err, views.Close()))
	}
	d.mapped = views
	return nil
}

// unmapUsers takes away what a daemon that was killed had mapped: its storage is in use by it.
func (d *daemon) unmapUsers() error {
	paths, err := filepath.Glob(d.state("mapped", "*"))
	for _, path := range paths {
		err = errors.Join(err, overlay.Unmap(path))
	}
	return err
}

// allIDs maps what is on disk: ids of clones to those that they have on this host, this process's
// root to one that nothing has, and all others, of users that clones do not have, to themselves.
func (d *daemon) allIDs() []specs.LinuxIDMapping {
	first := d.cfg.Containerd.IDs
	return []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: first, Size: idsOfClone},
		{ContainerID: idsOfClone, HostID: idsOfClone, Size: first - idsOfClone},
		{ContainerID: first + idsOfClone, HostID: first + idsOfClone, Size: idOfDaemon - first - idsOfClone},
		{ContainerID: idOfDaemon, HostID: 0, Size: 1},
	}
}

// checkIDs looks whether somebody else has been given ids of clones. See subuid(5).
func (d *daemon) checkIDs() error {
	first := int64(d.cfg.Containerd.IDs)
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		given, err := user.ParseSubIDFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, g := range given {
			if g.SubID < first+idsOfClone && first < g.SubID+g.Count {
				return fmt.Errorf("containerd.ids: %d and what follows are of %s, by %s", first, g.Name, file)
			}
		}
	}
	return nil
}

// views are of the layers and of the directories of clones, as users of clones have them.
type views []*overlay.View

func (v views) Close() (err error) {
	for _, view := range v {
		err = errors.Join(err, view.Close())
	}
	return err
}

// checkUsers tells whether clones have user namespaces.
func (d *daemon) checkUsers() api.Check {
	c := api.Check{Name: "user namespaces", Status: "ok"}
	if d.mapped != nil {
		first := uint64(d.cfg.Containerd.IDs)
		c.Detail = fmt.Sprintf("users of clones are %d to %d on this host", first, first+idsOfClone-1)
		return c
	}
	c.Status, c.Detail = "warning", "none: "+d.withoutUsers
	c.Why = "users of clones have numbers of this host's users"
	c.Fix = "they take Linux 6.3 and layers on XFS, Btrfs or ext4"
	return c
}
