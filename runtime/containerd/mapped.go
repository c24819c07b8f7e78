package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

const (
	idsOfClone = 1 << 16
	// idOfDaemon is what this process's root has in layers: nobody's, the last that there is.
	idOfDaemon = 1<<32 - 2
)

// Whether containers are in user namespaces: where they can, or nothing starts where they cannot, or never.
const (
	UsersAuto = "auto"
	UsersOn   = "on"
	UsersOff  = "off"
)

// MapOptions say who the users of clones are on this host.
type MapOptions struct {
	Mode     string   // one of the above
	First    uint32   // the first of the 65536 users and groups that those of clones are
	SubIDs   []string // files that say who else has been given such; default subuid(5)'s and subgid(5)'s
	ViewsDir string   // takes the layers, as users of clones see them
	// Layers returns the directory of the layers, by the name that mounts have.
	Layers func(context.Context) (string, error)
}

// Mapped are the users of clones, who have numbers of their own on this host where that can be.
type Mapped struct {
	first   uint32
	without error // why they have not
	layers  *overlay.View
}

// MapUsers has containers that are made from now on be in user namespaces, as the mode says. The caller must Close what
// it gets when no more containers are made.
func (r *Runner) MapUsers(ctx context.Context, o MapOptions) (*Mapped, error) {
	m, err := (*Mapped)(nil), errors.New("containerd.userns is off")
	if o.Mode != UsersOff {
		m, err = r.mapUsers(ctx, o)
	}
	if err != nil && o.Mode == UsersOn {
		return nil, fmt.Errorf("user namespaces, which containerd.userns wants: %w", err)
	}
	if err != nil {
		r.opts.Logger.WarnContext(ctx, "containers have no user namespaces: they are for administrators only", "reason", err)
		m = &Mapped{without: err}
		r.without = err
	}
	return m, nil
}

func (r *Runner) mapUsers(ctx context.Context, o MapOptions) (_ *Mapped, err error) {
	if o.SubIDs == nil {
		o.SubIDs = []string{"/etc/subuid", "/etc/subgid"}
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	layers, err := o.Layers(ctx)
	if err != nil {
		return nil, err
	}
	l, err := launch.New()
	if err != nil {
		return nil, err
	}
	defer l.Close()
	all := o.all()
	ns, err := l.Namespace(launch.IDs{Users: all, Groups: all})
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	m := &Mapped{first: o.First}
	m.layers, err = overlay.NewView(layers, filepath.Join(o.ViewsDir, filepath.Base(layers)), ns)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	clones := []specs.LinuxIDMapping{{ContainerID: 0, HostID: o.First, Size: idsOfClone}}
	users := &Users{IDs: launch.IDs{Users: clones, Groups: clones}, Rootfs: m.layers.Mounts}
	if err := r.UseUsers(ctx, users, layers, o.ViewsDir); err != nil {
		return nil, fmt.Errorf("try one: %w", err)
	}
	return m, nil
}

// UnmapUsers takes away what a daemon that was killed has left in its ViewsDir: its storage is in use by it.
func UnmapUsers(viewsDir string) error {
	paths, err := filepath.Glob(filepath.Join(viewsDir, "*"))
	for _, path := range paths {
		err = errors.Join(err, overlay.Unmap(path))
	}
	return err
}

// all maps what is on disk: ids of clones to those that they have on this host, this process's
// root to one that nothing has, and all others, of users that clones do not have, to themselves.
func (o MapOptions) all() []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: o.First, Size: idsOfClone},
		{ContainerID: idsOfClone, HostID: idsOfClone, Size: o.First - idsOfClone},
		{ContainerID: o.First + idsOfClone, HostID: o.First + idsOfClone, Size: idOfDaemon - o.First - idsOfClone},
		{ContainerID: idOfDaemon, HostID: 0, Size: 1},
	}
}

// check looks whether somebody else has been given ids of clones.
func (o MapOptions) check() error {
	first := int64(o.First)
	for _, file := range o.SubIDs {
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

// Close takes the view away.
func (m *Mapped) Close() error {
	if m == nil || m.layers == nil {
		return nil
	}
	return m.layers.Close()
}

// Check tells who they are on this host, or why they have no numbers of their own.
func (m *Mapped) Check(context.Context) api.Check {
	if m.without == nil {
		return api.Check{
			Name: "user namespaces", Status: "ok",
			Detail: fmt.Sprintf("users of clones are %d to %d on this host", m.first, uint64(m.first)+idsOfClone-1),
		}
	}
	return api.Check{
		Name: "user namespaces", Status: "warning", Detail: fmt.Sprintf("none: %v", m.without),
		Why: "users of clones have numbers of this host's users",
		Fix: "they take Linux 6.3 and layers on XFS, Btrfs or ext4",
	}
}
