package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	"github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot/overlay"
)

// Options describe an embedded containerd.
type Options struct {
	Root    string // directory for what stays
	State   string // directory for what is void after a reboot; see MountState
	Address string // path of the gRPC socket; ttrpc is at Address + ".ttrpc"
	// ShimDir is searched for shims, and by shims for runc, before PATH; it may
	// be a list as in PATH. "" means the directory of this executable.
	ShimDir string
	// Recover removes layers without a record before anything is served, also
	// where there is no record at all. It is needed when the metadata is older
	// than the layers: after a restart of the machine.
	Recover bool
	Logger  *slog.Logger // nil means slog.Default()
}

// embedded is the containerd in this process.
type embedded struct {
	server      *server.Server
	cancel      context.CancelFunc
	sockets     []string
	client      *client.Client
	metadata    *metadata.DB
	sandboxes   sandbox.Controller
	snapshotter *overlay.Snapshotter
	once        sync.Once
}

// Start runs containerd in this process until Stop. containerd's plugin registry
// and its logger are global, so a process can Start once only; later calls are
// FailedPrecondition. When Start returns, the sockets are served and shims of an
// earlier run are connected.
func Start(ctx context.Context, o Options) (*Server, error) {
	e := &embedded{sockets: []string{o.Address, o.Address + ".ttrpc"}}
	if err := e.start(ctx, o); err != nil {
		return nil, fmt.Errorf("start containerd in %s: %w", o.Root, err)
	}
	return &Server{client: e.client, version: containerdVersion(), address: o.Address, embedded: e}, nil
}

func (e *embedded) start(ctx context.Context, o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	if err := o.finishRemovals(); err != nil {
		return err
	}
	if err := e.register(o); err != nil {
		return err
	}
	bridgeLogs(o.Logger)
	cfg, err := o.config()
	if err != nil {
		return err
	}
	// Plugins keep their init context for as long as they live.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e.cancel = cancel
	defer func() {
		if err != nil {
			err = errors.Join(err, e.stop(ctx))
		}
	}()
	if err := server.CreateTopLevelDirectories(cfg); err != nil {
		return err
	}
	if e.server, err = server.New(life, cfg); err != nil {
		return err
	}
	if err := e.server.Start(life); err != nil {
		return err
	}
	e.server.Wait()
	return nil
}

// finishRemovals removes the directories of tasks that an earlier process was
// removing when it was killed: containerd gives them a hidden name first, and passes
// over those when it starts.
func (o *Options) finishRemovals() error {
	var errs []error
	for _, dir := range []string{o.State, o.Root} {
		hidden, err := filepath.Glob(filepath.Join(dir, uri(plugins.RuntimePluginV2, "task"), "*", ".*"))
		errs = append(errs, err)
		for _, path := range hidden {
			errs = append(errs, mount.UnmountRecursive(filepath.Join(path, "rootfs"), 0), os.RemoveAll(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove directories of tasks: %w", err)
	}
	return nil
}

// complete checks what is required and fills in defaults.
func (o *Options) complete() error {
	if !filepath.IsAbs(o.Root) || !filepath.IsAbs(o.State) || !filepath.IsAbs(o.Address) {
		return fmt.Errorf("root %q, state %q and address %q must be absolute paths: %w",
			o.Root, o.State, o.Address, errdefs.ErrInvalidArgument)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.ShimDir != "" {
		return nil
	}
	exe, err := os.Executable()
	o.ShimDir = filepath.Dir(exe)
	return err
}

// config is what containerd would read from its configuration file.
func (o *Options) config() (*config.Config, error) {
	// containerd looks for shims in its own PATH; the shim inherits it and
	// looks for runc there.
	path := o.ShimDir + string(filepath.ListSeparator) + os.Getenv("PATH")
	if err := os.Setenv("PATH", path); err != nil {
		return nil, err
	}
	return &config.Config{
		Version: version.ConfigVersion,
		Root:    o.Root,
		State:   o.State,
		// Whatever our plugin requires is loaded before it; these fail the
		// start if they do not come up.
		RequiredPlugins: []string{
			uri(pluginType, pluginID), uri(plugins.ServerPlugin, "grpc"), uri(plugins.ServerPlugin, "ttrpc"),
		},
		Plugins: map[string]any{
			uri(plugins.ServerPlugin, "grpc"):   map[string]any{"address": o.Address},
			uri(plugins.ServerPlugin, "ttrpc"):  map[string]any{"address": o.Address + ".ttrpc"},
			uri(plugins.MetadataPlugin, "bolt"): map[string]any{"no_sync": true},
			// A removed clone's files go with the next collection. By default that waits
			// for fifty times as long as one takes, on a host that was busy for minutes.
			uri(plugins.GCPlugin, "scheduler"): map[string]any{"deletion_threshold": 1, "schedule_delay": "10s"},
			uri(plugins.ShimPlugin, "manager"): map[string]any{
				"env":        []string{"PATH=" + path},
				"socket_dir": o.socketDir(),
			},
		},
	}, nil
}

// socketDir is where the sockets of shims lie: below State, unless that is too
// long for the name of a socket; then "" is containerd's default.
func (o *Options) socketDir() string {
	const most = 42 // maxSocketDirLen of containerd's core/runtime/v2
	if dir := filepath.Join(o.State, "s"); len(dir) <= most {
		return dir
	}
	return ""
}

// stop closes plugins in reverse order of their start, then what they left.
func (e *embedded) stop(ctx context.Context) error {
	var err error
	e.once.Do(func() {
		e.settle(ctx)
		if e.server != nil {
			e.server.Stop()
		}
		// containerd closes neither of them when it ends with its process.
		if e.metadata != nil {
			err = e.metadata.Close()
		}
		if e.snapshotter != nil {
			err = errors.Join(err, e.snapshotter.Close())
		}
		e.cancel()
		for _, s := range e.sockets {
			if rerr := os.Remove(s); rerr != nil && !os.IsNotExist(rerr) {
				err = errors.Join(err, rerr)
			}
		}
	})
	return err
}

// settlePeriod bounds the wait for a collection that goes on.
const settlePeriod = 2 * time.Second

// settle waits for a collection of the metadata that goes on, by one more: it would go on
// with stores that are closed. containerd starts one a moment after it was started.
func (e *embedded) settle(ctx context.Context) {
	if e.metadata == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = e.metadata.GarbageCollect(context.WithoutCancel(ctx)) // it goes on at the next start
	}()
	select {
	case <-done:
	case <-ctx.Done():
	case <-time.After(settlePeriod):
	}
}

// containerdVersion returns the version of the module that is linked in.
func containerdVersion() string {
	v, _, _ := strings.Cut(version.Version, "+")
	return v
}

// trimScheme turns "unix:///run/x.sock" into "/run/x.sock".
func trimScheme(address string) string { return strings.TrimPrefix(address, "unix://") }
