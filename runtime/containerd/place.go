package containerd

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// ownRuntime is containerd's name of the runtime whose shims serve many
// containers.
const ownRuntime = "io.containerd.ctrsnap.v1"

// place says in what a container runs, before anything of it is made: in one of our shims, or in runc where there are
// none, and in a user namespace, if UseUsers has found that there can be any. Both are decided when the daemon starts. What cannot be had there is an
// error: nothing is run another way.
func (r *Runner) place(ctx context.Context, c runtime.Container) (record containers.Container, err error) {
	spec := r.spec(c)
	if r.opts.Users != nil {
		r.opts.Users.remap(spec)
	}
	if r.opts.Users != nil && (r.opts.Shims == nil || c.NetNS == runtime.HostNetwork) {
		withoutSysfs(spec)
	}
	if r.opts.Shims == nil {
		return r.record(c, spec, "")
	}
	ctx, cancel := r.begin(context.WithoutCancel(ctx))
	defer cancel()
	sandbox, err := r.opts.Shims.Acquire(ctx)
	if err != nil {
		return record, snapshot.WithHint(fmt.Errorf("no shim to run it in: %w", err), hintShim)
	}
	record, err = r.record(c, spec, sandbox)
	if err != nil {
		r.release(ctx, sandbox)
	}
	return record, err
}

const hintShim = "containerd-shim-ctrsnap-v1 belongs beside ctrsnapd, with ctrsnap-shim; containerd.runtime = \"runc\" has runc start all containers"

// refused says what to do about a task that cannot be made. What a shim does not do, for the root filesystem or the specification is
// not for it, is an error of the golden's or the daemon's: nobody else's state is in the way of it.
func refused(err error) error {
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "failed to start shim"): // containerd has no class for it
		return snapshot.WithHint(err, hintShim)
	case !errdefs.IsFailedPrecondition(err):
		return err
	}
	return snapshot.WithHint(fmt.Errorf("%v: %w", err, errdefs.ErrInternal), //nolint:errorlint // its class is another
		"an image whose /proc, /dev or /sys is a link, or the like, has no container of its own users: take one where they are directories")
}

// Isolation says why containers that are made from now on have no user namespace; nil if each has one.
func (r *Runner) Isolation() error {
	if r.opts.Users != nil {
		return nil
	}
	return r.without
}

// release gives the place of a container in its shim back.
func (r *Runner) release(ctx context.Context, sandbox string) {
	if sandbox == "" || r.opts.Shims == nil {
		return
	}
	if err := r.opts.Shims.Release(ctx, sandbox); err != nil {
		// The container is gone all the same; the next start removes the shim.
		r.opts.Logger.WarnContext(ctx, "release shim", "sandbox", sandbox, "error", err)
	}
}
