// Package containerd runs containers through containerd and a shim of its
// choice, the stock runc shim by default. It implements [runtime.Runner].
//
// A container's record, its labels and its task live in containerd alone: this
// package keeps nothing that a restart of the process would lose, except the
// ends of fifos of containers that were made with Stdio.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	// recordExtension is the container extension that holds the record.
	recordExtension = "ctrsnap.record"
	recordType      = "ctrsnap.io/record"
	// snapshotRef is containerd's garbage collection label: the container holds
	// its snapshot by it. The record's own snapshot key would do so as well, but
	// makes the client mount the snapshot by itself, without our options.
	snapshotRef = "containerd.io/gc.ref.snapshot." + snapshot.Snapshotter
)

// Options refine a Runner. The zero value of each field is a good default.
type Options struct {
	Runtime    string // containerd's name of the runtime; default io.containerd.runc.v2
	ShimBinary string // path of the shim; default: looked up by containerd in PATH and beside itself
	RuncBinary string // name or path of runc; default "runc", looked up in the shim's PATH
	RuncRoot   string // where runc keeps its state; default /run/ctrsnap/runc
	FIFODir    string // where fifos of Stdio are made; default /run/ctrsnap/fifo
	RecordDir  string // where records are kept that have changed; default /run/ctrsnap/records
	CgroupRoot string // mount point of the cgroup filesystem; default /sys/fs/cgroup
	CgroupPath string // below which containers get theirs; default /ctrsnap
	// Address is the socket of containerd, as its shims are told it; "" leaves shims alone
	// that nobody knows.
	Address string
	Timeout time.Duration // of one operation on a container, default 30 s
	// Shims run containers in shims that serve many; without, the runtime above does.
	Shims Shims
	// Users are set by UseUsers.
	Users       *Users
	Logger      *slog.Logger  // default discards
	drainPeriod time.Duration // see streams.drain
	// Failpoint, if set, is called between the steps of Create and Delete.
	Failpoint func(step string) error
}

// Shims are the sandboxes of our own runtime. A context given to it carries
// containerd's namespace.
type Shims interface {
	// Acquire returns a sandbox with room for one container.
	Acquire(ctx context.Context) (id string, err error)
	// Release gives the place back.
	Release(ctx context.Context, id string) error
}

func (o *Options) setDefaults() {
	setDefault(&o.Logger, slog.New(slog.DiscardHandler))
	if o.Failpoint == nil {
		o.Failpoint = func(string) error { return nil }
	}
	setDefault(&o.Runtime, "io.containerd.runc.v2")
	setDefault(&o.RuncBinary, "runc")
	setDefault(&o.RuncRoot, "/run/ctrsnap/runc")
	setDefault(&o.FIFODir, "/run/ctrsnap/fifo")
	setDefault(&o.RecordDir, "/run/ctrsnap/records")
	setDefault(&o.CgroupRoot, "/sys/fs/cgroup")
	setDefault(&o.CgroupPath, "/ctrsnap")
	setDefault(&o.Timeout, 30*time.Second)
	setDefault(&o.drainPeriod, time.Second)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Runner is a [runtime.Runner] on top of containerd.
type Runner struct {
	client *client.Client
	opts   Options
	cgroup cgroups

	host func() (*cgroup.Host, error)

	without  error    // why containers have no user namespace, while there are no Users
	profiles sync.Map // seccomp profiles by the capabilities that they are for

	fifoDirs fifoDirs

	mu      sync.Mutex
	streams map[string]*streams // of containers with Stdio that this process made, by id
}

var (
	_ runtime.Runner   = (*Runner)(nil)
	_ runtime.Reserver = (*Runner)(nil)
)

// New returns a Runner that uses client, which stays the caller's.
func New(client *client.Client, opts Options) *Runner {
	opts.setDefaults()
	return &Runner{
		client:  client,
		opts:    opts,
		cgroup:  newCgroups(opts.CgroupRoot),
		without: errors.New("it was not tried whether they can be"),
		host:    sync.OnceValues(func() (*cgroup.Host, error) { return cgroup.NewHost(opts.CgroupRoot) }),
		streams: map[string]*streams{},

		fifoDirs: fifoDirs{open: map[string]bool{}},
	}
}

// begin puts containerd's namespace and the deadline of one operation on ctx.
func (r *Runner) begin(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(withNamespace(ctx), r.opts.Timeout)
}

func withNamespace(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, snapshot.Namespace)
}

// Reserve makes the container's cgroup, if one of our shims is to run it.
func (r *Runner) Reserve(id string) error {
	if r.opts.Shims == nil {
		return nil
	}
	host, err := r.host()
	if err != nil {
		return err
	}
	return host.Reserve(path.Join(r.opts.CgroupPath, id))
}

// Create makes the record of the container, then its task. It is not cut short
// when ctx ends, but undone: nobody could tell how far a call came that was left.
func (r *Runner) Create(ctx context.Context, c runtime.Container) (runtime.Task, error) {
	record, err := r.place(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("place container %s: %w", c.ID, err)
	}
	return r.create(ctx, c, record)
}

func (r *Runner) create(ctx context.Context, c runtime.Container, record containers.Container) (_ runtime.Task, err error) {
	octx, cancel := r.begin(context.WithoutCancel(ctx))
	defer cancel()
	if _, err := r.client.ContainerService().Create(octx, record); err != nil {
		r.release(octx, record.SandboxID)
		return nil, fmt.Errorf("record container %s: %w", c.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Delete(context.WithoutCancel(ctx), c.ID))
		}
	}()
	if err := r.opts.Failpoint("recorded"); err != nil {
		return nil, fmt.Errorf("create task %s: %w", c.ID, err)
	}
	rootfs, err := c.Rootfs(octx)
	if err == nil && r.opts.Users != nil {
		rootfs, err = r.opts.Users.Rootfs(rootfs)
	}
	if err != nil {
		return nil, fmt.Errorf("create task %s: %w", c.ID, err)
	}
	if err := errors.Join(checkSources(c), r.giveSocketDir(c)); err != nil {
		return nil, fmt.Errorf("create task %s: %w", c.ID, err)
	}
	container, err := r.client.LoadContainer(octx, c.ID)
	if err != nil {
		return nil, fmt.Errorf("load container %s: %w", c.ID, err)
	}
	s := r.newStreams(c)
	t, err := container.NewTask(octx, s.create, r.taskOpts(rootfs, record)...)
	if err != nil {
		return nil, fmt.Errorf("create task %s: %w", c.ID, refused(exhausted(err)))
	}
	if c.Stdio != nil {
		r.keep(c.ID, s)
	}
	if err := errors.Join(ctx.Err(), r.opts.Failpoint("created")); err != nil {
		return nil, fmt.Errorf("create task %s: %w", c.ID, err)
	}
	return &task{runner: r, task: t, streams: s}, nil
}

func (r *Runner) taskOpts(rootfs []mount.Mount, record containers.Container) []client.NewTaskOpts {
	opts := []client.NewTaskOpts{client.WithRootFS(rootfs)}
	if r.opts.ShimBinary != "" && record.SandboxID == "" {
		opts = append(opts, client.WithRuntimePath(r.opts.ShimBinary))
	}
	return opts
}

func (r *Runner) record(c runtime.Container, oci *specs.Spec, sandbox string) (containers.Container, error) {
	spec, err := typeurl.MarshalAny(oci)
	if err != nil {
		return containers.Container{}, err
	}
	info, err := r.stock()
	if err != nil {
		return containers.Container{}, err
	}
	labels := make(map[string]string, len(c.Labels)+1)
	for k, v := range c.Labels {
		labels[k] = v
	}
	if c.Snapshot != "" {
		labels[snapshotRef] = c.Snapshot
	}
	record := containers.Container{
		ID:         c.ID,
		Labels:     labels,
		Spec:       spec,
		Runtime:    info,
		Extensions: extensions(c.Record),
	}
	if sandbox != "" {
		record.SandboxID, record.Runtime = sandbox, containers.RuntimeInfo{Name: ownRuntime}
	}
	return record, nil
}

// stock is runc. Its pipes are of the container's root, who gives them to the user of a process.
func (r *Runner) stock() (containers.RuntimeInfo, error) {
	o := &options.Options{BinaryName: r.opts.RuncBinary, Root: r.opts.RuncRoot}
	if u := r.opts.Users; u != nil {
		o.IoUid, o.IoGid = u.IDs.Users[0].HostID, u.IDs.Groups[0].HostID
	}
	opts, err := typeurl.MarshalAny(o)
	return containers.RuntimeInfo{Name: r.opts.Runtime, Options: opts}, err
}

func extensions(record []byte) map[string]typeurl.Any {
	return map[string]typeurl.Any{recordExtension: &anypb.Any{TypeUrl: recordType, Value: record}}
}

// Load returns the task of a container whose first process has not ended.
// Output to a LogPath goes on as before; a process with Stdio has lost it.
func (r *Runner) Load(ctx context.Context, id string) (runtime.Task, error) {
	ctx, cancel := r.begin(ctx)
	defer cancel()
	container, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("load container %s: %w", id, err)
	}
	t, err := container.Task(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("load task %s: %w", id, err)
	}
	status, err := t.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("load task %s: %w", id, err)
	}
	if status.Status == client.Stopped {
		return nil, fmt.Errorf("load task %s: it has ended: %w", id, errdefs.ErrNotFound)
	}
	return &task{runner: r, task: t, streams: r.streamsOf(id)}, nil
}

// Containers lists containers by label.
func (r *Runner) Containers(ctx context.Context, labels map[string]string) ([]runtime.ContainerInfo, error) {
	ctx, cancel := r.begin(ctx)
	defer cancel()
	list, err := r.client.ContainerService().List(ctx, labelFilter(labels)...)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	infos := make([]runtime.ContainerInfo, 0, len(list))
	for _, c := range list {
		info := runtime.ContainerInfo{ID: c.ID, Labels: c.Labels}
		if first := c.Extensions[recordExtension]; first != nil {
			info.Record = first.GetValue()
		}
		if info.Record, err = r.readRecord(c.ID, info.Record); err != nil {
			return nil, fmt.Errorf("read record of container %s: %w", c.ID, err)
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// labelFilter returns the filter for containers that have all labels.
// See https://pkg.go.dev/github.com/containerd/containerd/v2/pkg/filters.
func labelFilter(labels map[string]string) []string {
	if len(labels) == 0 {
		return nil
	}
	var terms []string
	for k, v := range labels {
		terms = append(terms, "labels."+strconv.Quote(k)+"=="+strconv.Quote(v))
	}
	return []string{strings.Join(terms, ",")}
}

// Teardown removes the cgroup that containers get theirs below, unless somebody
// else's containers are there still.
func (r *Runner) Teardown() error { return r.cgroup.prune(r.opts.CgroupPath) }
