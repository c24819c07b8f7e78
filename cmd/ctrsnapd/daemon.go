package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/cmd/internal/config"
	"github.com/ctrsnap/ctrsnap/cmd/internal/failpoint"
	"github.com/ctrsnap/ctrsnap/cmd/internal/telemetry"
	"github.com/ctrsnap/ctrsnap/network/attach"
	"github.com/ctrsnap/ctrsnap/network/bridge"
	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/network/named"
	"github.com/ctrsnap/ctrsnap/network/publish"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/api/server"
	"github.com/ctrsnap/ctrsnap/runtime/build"
	runner "github.com/ctrsnap/ctrsnap/runtime/containerd"
	"github.com/ctrsnap/ctrsnap/runtime/engine/catalog"
	"github.com/ctrsnap/ctrsnap/runtime/engine/mariadb"
	"github.com/ctrsnap/ctrsnap/runtime/engine/postgres"
	"github.com/ctrsnap/ctrsnap/runtime/engine/redis"
	"github.com/ctrsnap/ctrsnap/runtime/event"
	"github.com/ctrsnap/ctrsnap/runtime/goldens"
	"github.com/ctrsnap/ctrsnap/runtime/host"
	"github.com/ctrsnap/ctrsnap/runtime/manager"
	"github.com/ctrsnap/ctrsnap/runtime/shim/sandboxes"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/base"
	"github.com/ctrsnap/ctrsnap/snapshot/checkpoint"
	"github.com/ctrsnap/ctrsnap/snapshot/containerd"
	"github.com/ctrsnap/ctrsnap/snapshot/golden"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

const (
	// stopTimeout bounds each half of an orderly stop: undoing what is being made, and closing. Clones go on
	// whatever happens.
	stopTimeout = 30 * time.Second
	// stopAtLast bounds all of it: what hangs then, in a filesystem that does not answer or a program that does not
	// end, is left to the next start, as after a crash.
	stopAtLast = 2*stopTimeout + 15*time.Second
)

// daemon is the wiring: every part, made once, in the order of the fields.
type daemon struct {
	cfg        config.Config
	log        *slog.Logger
	failpoints *failpoint.Set // nil but in tests
	lock       *os.File
	storage    *storage.Storage
	containerd *containerd.Server
	store      *golden.Store
	bases      *base.Maker
	network    *named.Provider
	bridge     *bridge.Network // nil where a CNI network is the default one
	names      *dns.Names      // nil where nobody answers for names
	attach     *attach.Attacher
	publish    *publish.Publisher
	certUsers  *access.CertUsers
	payers     *access.Payers
	shims      *sandboxes.Pool // nil where runc runs all
	runner     *runner.Runner
	users      *runner.Mapped
	engines    *catalog.Catalog
	telemetry  *telemetry.Telemetry
	recovered  manager.Report
	events     *event.Hub
	manager    *manager.Manager
	uses       *goldens.Uses
	goldens    *goldens.Goldens
	builder    *build.Builder
	building   atomic.Pointer[build.Builder] // builder, for the patrol, which has begun before it was made
	host       *host.Host
	started    api.GCStart // what was found at the start
	restarted  bool        // the machine was, since the last start
	background sync.WaitGroup
}

// open makes all parts and takes up what an earlier daemon left. The caller
// must close the daemon, also after an error.
func (d *daemon) open(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"state", d.openState},
		{"telemetry", d.openTelemetry},
		{"storage", d.openStorage},
		{"containerd", d.openContainerd},
		{"network", d.openNetwork},
		{"shims", d.openShims},
		{"engines", d.openEngines},
		{"runtime", d.openRuntime},
		{"recover", d.recover},
	} {
		if err := step.do(ctx); err != nil {
			return err
		}
		if err := d.failpoints.Visit("start." + step.name); err != nil {
			return err
		}
	}
	return nil
}

func (d *daemon) state(elem ...string) string {
	return filepath.Join(append([]string{d.cfg.State}, elem...)...)
}

func (d *daemon) dirs() host.Dirs { return host.Dirs{Root: d.cfg.Root, State: d.cfg.State} }

// stored returns a path on the storage.
func (d *daemon) stored(elem ...string) string {
	return filepath.Join(append([]string{d.storage.Dir()}, elem...)...)
}

// openState makes the state directory and takes the lock that keeps a second
// daemon out. The kernel lets go of it when the process ends.
func (d *daemon) openState(context.Context) error {
	err := containerd.MountState(d.cfg.State, 0o755)
	if err == nil {
		d.cfg.State, err = filepath.EvalSymlinks(d.cfg.State) // no link is followed to what containers are given
	}
	if err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	lock, err := os.OpenFile(d.state("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("lock state directory: %w", err)
	}
	d.lock = lock
	// A lock of the process, not flock(2)'s of the open file: a child that was forked just
	// before a daemon was killed, and has not come to its exec yet, would hold that.
	if err := unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return fmt.Errorf("lock %s: another ctrsnapd uses it: %w", d.cfg.State, err)
	}
	return d.dirs().MountRunDirs()
}

// openTelemetry opens what the daemon is watched by.
func (d *daemon) openTelemetry(ctx context.Context) (err error) {
	d.telemetry, err = telemetry.Open(ctx, d.cfg.Root)
	return err
}

func (d *daemon) openStorage(ctx context.Context) (err error) {
	if err := runner.UnmapUsers(d.state("mapped")); err != nil {
		return err
	}
	dir := filepath.Join(d.cfg.Root, "storage")
	if d.cfg.Containerd.Address != "" {
		// The layers are where that containerd keeps them.
		if d.storage, err = storage.At(dir); err != nil {
			return err
		}
		return os.Chmod(d.storage.Dir(), 0o700)
	}
	d.storage, err = host.OpenStorage(ctx, storage.Options{
		Dir:        dir,
		Image:      filepath.Join(d.cfg.Root, "storage.xfs"),
		Size:       int64(d.cfg.Storage.Size),
		AllowPlain: true,
		Failpoint:  d.failpoints.Of("storage"),
	}, d.state("storage-stopped"), d.endUsers, d.log)
	if err != nil {
		return err
	}
	return os.Chmod(d.storage.Dir(), 0o700) // what is in it has names that users know
}

// endUsers ends what holds a storage that has stopped.
func (d *daemon) endUsers(ctx context.Context) error {
	return d.dirs().EndAll(ctx, runner.New(nil, runner.Options{CgroupPath: d.cfg.Containerd.Cgroup}), d.state("containerd.sock"))
}

// openContainerd starts or connects containerd, restores what the last boot
// checkpointed, and clears what builds left behind.
func (d *daemon) openContainerd(ctx context.Context) error {
	saved := checkpoint.Options{
		Dir: d.stored("checkpoint"), Root: d.stored("containerd"), External: d.cfg.Containerd.Address != "",
		Failpoint: d.failpoints.Of("checkpoint"),
	}
	restored, err := checkpoint.Restore(saved)
	if err != nil {
		return err
	}
	d.restarted = restored.Restarted
	d.log.Info("metadata", "restarted", restored.Restarted, "restored", restored.Restored, "taken", restored.Taken, "damaged", restored.Damaged)
	opts := golden.Options{Exclusive: storage.Exclusive, Marked: d.marked, Failpoint: d.failpoints.Of("golden")}
	if address := d.cfg.Containerd.Address; address != "" {
		d.containerd, err = containerd.Connect(ctx, address)
	} else if err = containerd.MountState(d.state("containerd"), 0o711); err == nil {
		d.containerd, err = containerd.Start(ctx, containerd.Options{
			Root: saved.Root, State: d.state("containerd"), Address: d.state("containerd.sock"),
			ShimDir: strings.Join(d.programs(), string(filepath.ListSeparator)), Recover: restored.Restarted, Logger: d.log,
		})
	}
	if err != nil {
		return err
	}
	if db, snapshotter := d.containerd.Databases(); db != nil {
		opts.Save = checkpoint.New(saved, db, snapshotter).Save
	}
	d.store = golden.New(d.containerd.Client(), opts)
	report, err := d.store.Reconcile(ctx, golden.ReconcileOpts{Void: restored.Restarted})
	if err != nil {
		return err
	}
	d.log.Info("reconciled goldens", "builds", report.Builds, "snapshots", report.Snapshots, "damaged", report.Damaged)
	d.started.Builds, d.started.Goldens = report.Builds, report.Damaged
	d.bases = base.New(d.containerd.Client(), base.Options{Dir: d.state("base"), Logger: d.log})
	if err := d.bases.Reconcile(ctx); err != nil || !restored.Restarted {
		return err
	}
	return checkpoint.Confirm(saved)
}

func (d *daemon) openRuntime(ctx context.Context) error {
	opts := runner.Options{
		ShimBinary: d.program("containerd-shim-runc-v2"),
		RuncBinary: d.runc(),
		RuncRoot:   d.state("runc"),
		FIFODir:    d.state("fifo"),
		RecordDir:  d.state("records"),
		Address:    d.containerd.Address(),
		CgroupPath: d.cfg.Containerd.Cgroup,
		Logger:     d.log,
		Failpoint:  d.failpoints.Of("runner"),
	}
	if d.shims != nil {
		opts.Shims = d.shims
	}
	var err error
	if d.certUsers, err = access.OpenCertUsers(filepath.Join(d.cfg.Root, "cert-users")); err != nil {
		return err
	}
	d.payers = access.NewPayers("/etc/subuid")
	d.runner = runner.New(d.containerd.Client(), opts)
	d.users, err = d.runner.MapUsers(ctx, runner.MapOptions{
		Mode: d.cfg.Containerd.UserNS, First: d.cfg.Containerd.IDs, Layers: d.containerd.SnapshotRoot, ViewsDir: d.state("mapped"),
	})
	if err != nil {
		return err
	}
	d.events = event.New()
	d.manager = manager.New(manager.Options{
		Ports: d.publish, Interfaces: d.attach, IsNetworkAdmin: d.isNetworkAdmin, Failpoint: d.failpoints.Of("clone"),
		Store: d.store, Runner: d.runner, Network: d.network, Engines: d.engines,
		RunDir: d.state("clones"), LogDir: d.stored("logs"),
		DefaultTTL: time.Duration(d.cfg.Clone.TTL), MaxTTL: time.Duration(d.cfg.Clone.MaxTTL),
		Zone: d.zone(), ResolvConf: d.resolvConf, StartTimeout: time.Duration(d.cfg.Clone.StartTimeout), LeaseRestartGrace: time.Duration(d.cfg.Clone.LeaseGrace), Egress: d.cfg.Clone.Egress, OwnPassword: d.cfg.Clone.OwnPassword, Limits: d.limits(), Space: d.space, EndBuilds: d.endBuilds, Payer: d.payers.Of, Events: d.events, Observe: d.telemetry.Observe, Pool: d.pool(), Logger: d.log,
	})
	if d.uses, err = goldens.OpenUses(filepath.Join(d.cfg.Root, "golden-uses.json")); err != nil {
		d.log.Error("none of the goldens counts as unused until now", "error", err)
	}
	d.goldens = goldens.New(goldens.Options{Store: d.store, Clones: d.manager, Users: d.certUsers, Events: d.events, Uses: d.uses, Log: d.log})
	d.builder = build.New(build.Options{
		Store: d.store, Goldens: d.goldens, Bases: d.bases, Runner: d.runner, Network: d.network, Engines: d.engines,
		SpoolDir: d.stored("spool"), RunDir: d.state("builds"), LogDir: d.stored("logs"),
		Logger: d.log, Concurrency: d.cfg.Build.Parallel, Timeout: time.Duration(d.cfg.Build.Timeout), TrustedGroup: d.cfg.Build.TrustedGroup, Payer: d.payers.Of, Peers: d.manager.Peers, Mode: uint32(d.cfg.Build.Mode),
		MaxUpload: int64(d.cfg.Build.MaxUpload), HostNetwork: d.cfg.Build.HostNetwork, Room: d.manager.Room,
		Failpoint: d.failpoints.Of("build"),
	})
	d.building.Store(d.builder)
	d.openHost()
	return nil
}

// openShims takes over the shims that serve many clones each. With the host's
// containerd, which does not know our runtime, there are none.
func (d *daemon) openShims(ctx context.Context) error {
	if d.cfg.Containerd.Runtime == "runc" || !d.containerd.Embedded() {
		return nil
	}
	ctx = namespaces.WithNamespace(ctx, snapshot.Namespace)
	client := d.containerd.Client()
	used, err := sandboxes.Used(ctx, client.ContainerService())
	if err != nil {
		return err
	}
	d.shims = sandboxes.New(client.SandboxStore(), d.containerd.Sandboxes(), sandboxes.Options{Failpoint: d.failpoints.Of("shim")})
	return d.shims.Recover(ctx, used)
}

// openEngines takes the built-in engines, and those that users have described.
func (d *daemon) openEngines(context.Context) error {
	c, damaged, err := catalog.Open(filepath.Join(d.cfg.Root, "engines"),
		postgres.New(), mariadb.New(), mariadb.NewMySQL(), redis.New(), redis.NewValkey())
	if err != nil {
		return err
	}
	if damaged != nil {
		d.log.Error("engines that cannot be used", "error", damaged)
	}
	d.engines = c
	return nil
}

// recover takes up the clones of an earlier daemon, removes the rest and says what it did.
func (d *daemon) recover(ctx context.Context) error {
	_, err := d.builder.Recover(ctx)
	if err != nil {
		return err
	}
	if _, err := d.runner.RemoveRecords(ctx); err != nil {
		d.log.Error("remove records", "error", err)
	}
	clones, err := d.manager.Recover(ctx)
	d.recovered = clones
	if err != nil {
		// One clone that cannot be recovered is no reason to serve none.
		d.log.Error("recover clones", "error", err)
	}
	s := &d.started
	s.Adopted, s.Pool, s.Removed, s.Orphans = clones.Adopted, clones.Members, clones.Removed, clones.Orphans
	d.host.Recover(ctx, *s)
	return nil
}

// endBuilds ends all builds, and says how many are left: the storage is full.
func (d *daemon) endBuilds(why error) (left int) {
	if b := d.building.Load(); b != nil {
		return b.End(why)
	}
	return 0
}

// endAtLast calls exit if the stop that ctx's end begins is not done, which done says, within most.
func endAtLast(ctx context.Context, most time.Duration, exit func(code int)) (done func()) {
	over := make(chan struct{})
	go func() {
		select {
		case <-over:
			return
		case <-ctx.Done():
		}
		select {
		case <-over:
		case <-time.After(most):
			slog.Error("stop: something hangs; the next start clears up", "after", most)
			exit(1)
		}
	}()
	return func() { close(over) }
}

// close stops what open started. Clones go on.
func (d *daemon) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	var err error
	d.background.Wait()
	if d.manager != nil {
		err = d.manager.Close(ctx)
	}
	err = errors.Join(err, d.names.Close())
	if d.shims != nil {
		d.shims.Close()
	}
	if d.publish != nil {
		err = errors.Join(err, d.publish.Close())
	}
	if d.network != nil {
		err = errors.Join(err, d.network.Close())
	}
	err = errors.Join(err, d.users.Close())
	if d.containerd != nil {
		err = errors.Join(err, d.containerd.Stop(ctx))
	}
	err = errors.Join(err, d.telemetry.Close(ctx))
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// marked is told of goldens that are found to be damaged, or sound again.
func (d *daemon) marked(ctx context.Context, g snapshot.Golden) { d.goldens.Marked(ctx, g) }

// scrub says how goldens are verified in the background; all at once when the machine was restarted.
func (d *daemon) scrub() snapshot.ScrubOpts {
	o := d.goldens.Scrub(time.Duration(d.cfg.Storage.Verify), func() bool { return d.manager.Load().Active > 0 })
	if d.restarted {
		o.Since = time.Now()
	}
	return o
}

// pruner keeps goldens from piling up, as the configuration says.
func (d *daemon) pruner() goldens.Pruner {
	c := d.cfg.Build
	p := goldens.Pruner{Goldens: d.goldens, Policy: api.PruneRequest{Keep: c.Keep, UnusedFor: api.Duration(c.UnusedFor)}, Log: d.log}
	if c.MakeRoom {
		p.Short = func() int64 {
			s, err := d.space()
			if err != nil {
				return 0
			}
			return s.Reserve + s.Reserve/4 - s.Free
		}
	}
	return p
}

// served are the verbs of goldens.
type served struct {
	*goldens.Goldens
	*build.Builder
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, cfg config.Config) (err error) {
	d := &daemon{cfg: cfg, log: slog.Default()}
	defer endAtLast(ctx, stopAtLast, os.Exit)()
	defer func() { err = errors.Join(err, d.close(ctx)) }()
	began := time.Now()
	if d.failpoints, err = failpoint.FromEnv(); err != nil {
		return err
	}
	if err := d.open(ctx); err != nil {
		return err
	}
	if d.shims != nil {
		d.shims.Warm(namespaces.WithNamespace(ctx, snapshot.Namespace))
	}
	d.openNames(ctx)
	if err := d.manager.RefreshPool(ctx); err != nil {
		return err
	}
	listeners, err := d.listen(ctx)
	if err != nil {
		return err
	}
	d.log.Info("ready", "socket", cfg.API.Socket, "took", time.Since(began))
	if _, err := sd.SdNotify(false, sd.SdNotifyReady); err != nil {
		d.log.Warn("tell systemd", "error", err)
	}
	// The manager closes first: what is being made is undone, and leases are let go of without harm to their clones.
	// Until it has closed, the server says that the daemon is stopping.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	context.AfterFunc(ctx, func() {
		_, _ = sd.SdNotify(false, sd.SdNotifyStopping)
		closing, cancel := context.WithTimeout(serving, stopTimeout)
		defer cancel()
		if err := d.manager.Close(closing); err != nil {
			d.log.Warn("stop", "error", err)
		}
		stop()
	})
	d.telemetry.Read(telemetry.Source{
		LastMeasured: d.manager.LastMeasured, Pools: func(ctx context.Context) ([]api.Pool, error) { return d.manager.Pools(ctx, access.Daemon) }, Load: d.manager.Load, Space: d.space, Room: d.manager.Room,
		Goldens: func(ctx context.Context) ([]api.Golden, error) { return d.goldens.List(ctx, access.Daemon, "") },
		Events:  d.events, Recover: d.recovered,
	})
	d.background.Go(func() { d.store.Scrub(serving, d.scrub()) })
	if a := cfg.API; a.Group != "" {
		d.background.Go(func() {
			letIn(serving, func() (bool, error) { return server.LetIn(a.Socket, a.Group) }, a.Group, d.log)
		})
	}
	d.background.Go(func() { d.uses.Follow(serving, d.events, d.log) })
	d.background.Go(func() { d.pruner().Run(serving) })
	if err := d.telemetry.Serve(serving, cfg.Metrics.Listen, d.log); err != nil {
		return err
	}
	d.manager.Serving()
	return server.New(server.Options{Clones: d.manager, Goldens: served{d.goldens, d.builder}, Pools: d.manager, Host: d.host, AdminGroup: cfg.API.AdminGroup,
		Stats: d.manager, Events: d.events, Metrics: d.telemetry.Handler(), Audit: d.telemetry.Audit(), Interfaces: d.manager, Networks: d.networks(), Engines: &host.Engines{Catalog: d.engines, Goldens: d.store.Goldens, Log: d.log}, Logger: d.log,
		CertUsers: d.certUsers, CertAdmins: cfg.API.TLSAdmins}).Serve(serving, listeners...)
}
