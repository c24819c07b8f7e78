package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/launch"
)

// Users are the user namespaces of containers.
type Users struct {
	IDs launch.IDs
	// Rootfs returns mounts of a root filesystem with its owners in the namespace.
	Rootfs func([]mount.Mount) ([]mount.Mount, error)
}

// remap has a container be in a user namespace. (Mounts with ids of their own would have
// containerd run the shim for each container, to see whether it knows them.)
func (u *Users) remap(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = u.IDs.Users, u.IDs.Groups
}

// withoutSysfs has a container go without sysfs: nobody in a user namespace may mount what it shows of a network namespace that is
// the host's. Our launcher does that, before the container has users, where it joins a network namespace.
func withoutSysfs(s *specs.Spec) {
	for i, m := range s.Mounts {
		if m.Type == "sysfs" {
			s.Mounts[i].Type, s.Mounts[i].Source = "tmpfs", "tmpfs"
			s.Mounts[i].Options = []string{"nosuid", "noexec", "nodev", "mode=755", "size=64k", "ro"}
		}
	}
}

// giveSocketDir makes the directory of a container's socket its process's, by the number that its user has on this host. That is
// known here only.
func (r *Runner) giveSocketDir(c runtime.Container) error {
	uid, gid := int(c.Process.UID), int(c.Process.GID)
	if u := r.opts.Users; u != nil {
		uid, gid = uid+int(u.IDs.Users[0].HostID), gid+int(u.IDs.Groups[0].HostID)
	}
	for _, m := range c.Mounts {
		if m.Destination == runtime.SocketDir {
			return os.Lchown(m.Source, uid, gid)
		}
	}
	return nil
}

// checkSources refuses binds of what is reached by a symbolic link: runc would follow it, wherever it leads. Our launcher looks
// for itself.
func checkSources(c runtime.Container) error {
	for _, m := range c.Mounts {
		if m.Type != "bind" {
			continue
		}
		fd, err := unix.Openat2(unix.AT_FDCWD, m.Source, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			return &os.PathError{Op: "bind without following links", Path: m.Source, Err: err}
		}
		_ = unix.Close(fd) // it was not open for anything
	}
	return nil
}

// UseUsers has containers that are made from now on be in user namespaces, if the kernel
// and the filesystems can: it builds one to see. layers and state are directories for what it
// is built from; Rootfs knows the path of layers. It is not to be called while containers are made.
func (r *Runner) UseUsers(ctx context.Context, u *Users, layers, state string) (err error) {
	layers, state = filepath.Join(layers, trial), filepath.Join(state, trial)
	clean := func() error { return errors.Join(os.RemoveAll(layers), os.RemoveAll(state)) }
	if err := clean(); err != nil { // of a trial that was killed
		return err
	}
	defer func() { err = errors.Join(err, clean()) }()
	for _, dir := range []string{layers + "/lower", layers + "/upper", layers + "/work", state + "/rootfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	rootfs, err := u.Rootfs([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "lowerdir=" + layers + "/lower", "upperdir=" + layers + "/upper", "workdir=" + layers + "/work",
	}}})
	if err != nil {
		return err
	}
	spec := r.spec(runtime.Container{
		ID: trial, NetNS: "/proc/self/ns/net", Process: runtime.Process{Args: []string{"/none"}},
	})
	u.remap(spec)
	if err := r.try(ctx, state, rootfs, spec); err != nil {
		return err
	}
	r.opts.Users = u
	return nil
}

// trial names a container that is only tried.
const trial = "userns-trial"

// try builds a container up to its program, and ends it.
func (r *Runner) try(ctx context.Context, bundle string, rootfs []mount.Mount, spec *specs.Spec) (err error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	parsed, err := launch.ParseSpec(data)
	if err != nil {
		return err
	}
	host, err := r.host()
	if err != nil {
		return err
	}
	group, err := host.Create(ctx, spec.Linux.CgroupsPath, spec.Linux.Resources)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, group.Remove(context.WithoutCancel(ctx))) }()
	l, err := launch.New()
	if err != nil {
		return err
	}
	defer l.Close()
	p, _, err := l.Create(launch.Config{ID: trial, Bundle: bundle, Rootfs: rootfs, Spec: parsed, Cgroup: group})
	if err != nil {
		return err
	}
	defer p.Close()
	err = p.Built()
	if kerr := p.Signal(unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
		err = errors.Join(err, fmt.Errorf("end it: %w", kerr))
	}
	_, werr := p.Wait()
	return errors.Join(err, werr)
}
