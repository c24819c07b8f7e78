package base

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/base/host"
	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// hostPrefix begins the names of host bases; [host.Plan.Key] ends them.
const hostPrefix = "ctrsnap/base/host/"

// Host returns a root filesystem of the host's files that tree names and of
// what they need to run (see package host). While those files do not change,
// it is made once. NotFound and PermissionDenied, with a hint, say what of the
// host is missing or private; Unavailable that a file changed meanwhile.
func (m *Maker) Host(ctx context.Context, tree snapshot.HostTree) (snapshot.Base, error) {
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	plan, err := host.Find(ctx, tree, m.log)
	if err != nil {
		return snapshot.Base{}, err
	}
	name := hostPrefix + plan.Key().Encoded()
	info, err := m.ensure(ctx, name, plan)
	if err != nil {
		return snapshot.Base{}, fmt.Errorf("make base of %s: %w", tree.Name, err)
	}
	return snapshot.Base{
		Kind:     "host",
		Ref:      tree.Name,
		Digest:   info.Labels[labelDigest],
		Snapshot: name,
	}, nil
}

// ensure returns the committed snapshot name, made of plan if it is not there.
func (m *Maker) ensure(ctx context.Context, name string, plan *host.Plan) (snapshots.Info, error) {
	unlock, err := m.locks.Lock(ctx, name)
	if err != nil {
		return snapshots.Info{}, err
	}
	defer unlock()
	// Hold it before looking: it could be collected in between.
	if err := m.hold(ctx, name, snapshotResource(name)); err != nil {
		return snapshots.Info{}, err
	}
	info, err := m.snapshots.Stat(ctx, name)
	if !errdefs.IsNotFound(err) {
		return info, err
	}
	if err := m.make(ctx, name, plan); err != nil {
		return snapshots.Info{}, err
	}
	return m.snapshots.Stat(ctx, name)
}

// make commits a snapshot that is filled as plan says.
func (m *Maker) make(ctx context.Context, name string, plan *host.Plan) (err error) {
	ctx, end, err := m.work(ctx)
	if err != nil {
		return err
	}
	key := name + "/new"
	defer func() {
		err = errors.Join(err, end(err)) // nothing but the lease holds key
	}()
	mounts, err := m.snapshots.Prepare(ctx, key, "")
	if errdefs.IsAlreadyExists(err) { // of a process that died, and no Reconcile
		if err := m.snapshots.Remove(ctx, key); err != nil {
			return err
		}
		mounts, err = m.snapshots.Prepare(ctx, key, "")
	}
	if err != nil {
		return err
	}
	content, err := m.fill(ctx, mounts, plan)
	if err != nil {
		return outOfSpace(err)
	}
	return m.snapshots.Commit(ctx, name, key, snapshots.WithLabels(map[string]string{
		snapshot.LabelKind: kindBase,
		labelBase:          plan.Name,
		labelDigest:        content.String(),
	}))
}

// fill writes and syncs plan into the mounts.
func (m *Maker) fill(ctx context.Context, mounts []mount.Mount, plan *host.Plan) (_ digest.Digest, err error) {
	if err := os.MkdirAll(m.opts.Dir, 0o700); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(m.opts.Dir, "host-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mount.All(overlay.Foreign(mounts), dir); err != nil {
		return "", errors.Join(err, mount.UnmountMounts(mounts, dir, 0))
	}
	defer func() { err = errors.Join(err, mount.UnmountMounts(mounts, dir, 0)) }()
	content, err := plan.Write(ctx, dir)
	if err != nil {
		return "", err
	}
	return content, syncfs(dir)
}

// syncfs writes all of the filesystem that dir is on to its disk.
func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// outOfSpace gives the error of a full filesystem its class and a hint.
func outOfSpace(err error) error {
	if !isOutOfSpace(err) {
		return err
	}
	return snapshot.WithHint(fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted),
		"free some space in the storage root: remove goldens, or let it grow (ctrsnap doctor)")
}

func isOutOfSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		// What comes from containerd over a socket is text only.
		err != nil && containsAny(err.Error(), syscall.ENOSPC.Error(), syscall.EDQUOT.Error())
}
