package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime"
)

// ownRuntime is containerd's name of the runtime whose shims serve many
// containers.
const ownRuntime = "io.containerd.ctrsnap.v1"

// join has a container run in one of our shims: a server, which is to be there
// soon. What talks to this process by Stdio is a step of a build. A container that goes to
// runc has no sandbox and no user namespace.
func (r *Runner) join(ctx context.Context, c runtime.Container) (spec *specs.Spec, sandbox string) {
	spec = r.spec(c)
	if r.opts.Shims == nil || c.Stdio != nil {
		return spec, ""
	}
	if r.opts.Users != nil {
		r.opts.Users.remap(spec)
	}
	if err := r.checker.Check(spec); err != nil {
		r.opts.Logger.InfoContext(ctx, "container goes to runc", "container", c.ID, "reason", err)
		return r.spec(c), ""
	}
	sctx, cancel := r.begin(context.WithoutCancel(ctx))
	defer cancel()
	id, err := r.opts.Shims.Acquire(sctx)
	if err != nil {
		r.opts.Logger.WarnContext(ctx, "container goes to runc", "container", c.ID, "reason", err)
		return r.spec(c), ""
	}
	return spec, id
}

// createIn creates a container in one of our shims. What only the root filesystem shows, a
// link at /proc and the like, the shim refuses with FailedPrecondition; then
// runc gets it.
func (r *Runner) createIn(ctx context.Context, c runtime.Container, record containers.Container) (runtime.Task, error) {
	t, err := r.create(ctx, c, record)
	if err == nil || !errdefs.IsFailedPrecondition(err) || ctx.Err() != nil {
		return t, err
	}
	r.opts.Logger.WarnContext(ctx, "container goes to runc", "container", c.ID, "reason", err)
	record, rerr := r.record(c, r.spec(c), "")
	if rerr != nil {
		return nil, fmt.Errorf("describe container %s: %w", c.ID, errors.Join(err, rerr))
	}
	return r.create(ctx, c, record)
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
