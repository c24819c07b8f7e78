package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/network"
	"github.com/ctrsnap/ctrsnap/network/kind"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/runtime/removal"
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// maxSocketPath is the longest path of a unix socket: see unix(7), sun_path, less the final NUL.
const maxSocketPath = 107

// maker makes clones of plans.
type maker struct {
	host
	resolvConf   func(ctx context.Context, addr netip.Addr) string
	startTimeout time.Duration

	registry *registry
	removals *removal.Queue
	deaths   *deaths
	observe  func(context.Context, Made)
}

// making is one clone that is made, step by step.
type making struct {
	*maker
	want    *plan
	starter Starter
	clone   *clone
	undo    undo.Stack
	begun   time.Time

	// prepared is closed when the snapshot is there, or prepareErr says why not.
	prepared   chan struct{}
	prepareErr error
	mounts     []mount.Mount
	netns      network.Namespace

	mu      sync.Mutex
	timings api.Timings
}

// make makes one clone and returns when it has answered. An error leaves nothing of it behind.
func (m *maker) make(ctx context.Context, want *plan, name string) (*clone, error) {
	id := kind.Clone.New()
	s := &making{maker: m, want: want, starter: starterOf(m.runner, want), begun: time.Now(), timings: api.Timings{}}
	rec := newRecord(id, want, name, s.begun)
	rec.Isolation = isolation(m.runner.Isolation())
	s.clone = newClone(id, want.golden, want.engine, m.files.Sockets(id), rec)
	m.removals.Own(id)
	err := s.run(ctx)
	if err != nil {
		err = s.fail(ctx, err)
	}
	m.observe(ctx, Made{Golden: want.golden.Ref(), Member: want.member, Began: s.begun, Timings: s.timings, Err: err})
	if err != nil {
		return nil, err
	}
	m.log.Info("clone ready", "clone", id, "golden", want.golden.Ref().String(), "ms", s.timings[api.StageTotal], "pool", want.member)
	return s.clone, nil
}

// fail undoes what was made. What could not be undone is torn down again until it is gone.
func (s *making) fail(ctx context.Context, err error) error {
	if undoErr := s.undo.Run(ctx, undoTimeout); undoErr != nil {
		s.removals.Remove(s.clone.id)
		return errors.Join(err, fmt.Errorf("undo clone %s: %w", s.clone.id, undoErr))
	}
	s.removals.Disown(s.clone.id)
	return err
}

func (s *making) run(ctx context.Context) error {
	s.prepared = make(chan struct{})
	go func() {
		defer close(s.prepared)
		s.prepareErr = s.stage(ctx, api.StagePrepare, s.prepareSnapshot)
	}()
	defer func() { <-s.prepared }() // what it made is undone after it
	if err := s.prepareAll(ctx); err != nil {
		return err
	}
	if err := s.setConnection(); err != nil {
		return err
	}
	steps := []struct {
		stage api.Stage
		run   func(context.Context) error
	}{{api.StageCreate, s.create}, {api.StageStart, s.startTask}, {api.StageReady, s.ready}}
	for _, step := range steps {
		if err := s.stage(ctx, step.stage, step.run); err != nil {
			return err
		}
	}
	return s.keep(ctx)
}

// stage runs a step and takes its time.
func (s *making) stage(ctx context.Context, stage api.Stage, run func(context.Context) error) error {
	begun := time.Now()
	err := run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timings[stage] = milliseconds(time.Since(begun))
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// prepareAll makes side by side what a container needs before it is one, but for its snapshot: that is needed by the
// task only.
func (s *making) prepareAll(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.stage(ctx, api.StageNetwork, s.prepareNetwork) })
	g.Go(s.reserve)
	return g.Wait()
}

func (s *making) prepareSnapshot(ctx context.Context) (err error) {
	id := s.clone.id
	s.mounts, err = s.store.Prepare(ctx, id, s.want.golden)
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	s.undo.Add("remove snapshot", func(ctx context.Context) error { return s.store.Remove(ctx, id) })
	return s.step("prepared")
}

// prepareNetwork makes the network. A wanted address may be that of a clone that is on its way out: it is waited for.
func (s *making) prepareNetwork(ctx context.Context) (err error) {
	id := s.clone.id
	err = s.removals.Retry(ctx, func() (err error) {
		s.netns, err = s.network.Add(ctx, id, s.want.network())
		return err
	}, func(err error) bool { return s.want.addr.IsValid() && errdefs.IsAlreadyExists(err) })
	if err != nil {
		return fmt.Errorf("add network: %w", err)
	}
	s.undo.Add("remove network", func(ctx context.Context) error { return s.network.Remove(ctx, id) })
	return s.step("connected")
}

// reserve makes the directories and what the container has from the runner before it is one. The clone's own directory
// comes first: Recover finds the rest by it.
func (s *making) reserve() error {
	id := s.clone.id
	s.undo.Add("remove files", func(context.Context) error { return s.files.remove(id) })
	if err := errors.Join(s.files.make(id, s.want.caller.UID()), s.step("files")); err != nil {
		return err
	}
	r, ok := s.runner.(runtime.Reserver)
	if !ok {
		return nil
	}
	s.undo.Add("remove container", func(ctx context.Context) error { return s.runner.Delete(ctx, id) })
	if err := r.Reserve(id); err != nil {
		return fmt.Errorf("reserve container: %w", err)
	}
	return s.step("reserved")
}

// setConnection finds out how the clone will be reached. That is known before it runs, and so is a socket path that is
// too long for the kernel.
func (s *making) setConnection() error {
	c := s.clone
	if len(s.netns.Addrs) > 0 {
		c.change(func(r *record) { r.Addr, r.Addrs = s.netns.Addrs[0], s.netns.Addrs })
	}
	conn, err := c.engine.Connect(c.golden, c.endpoint())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if len(conn.Socket) > maxSocketPath {
		return snapshot.WithHint(
			fmt.Errorf("socket path %s is longer than %d bytes: %w", conn.Socket, maxSocketPath, errdefs.ErrFailedPrecondition),
			"configure a shorter run directory")
	}
	c.change(func(r *record) { r.connection = connection(conn) })
	return nil
}

// create makes the container and its task.
func (s *making) create(ctx context.Context) error {
	c := s.clone
	rec := c.record()
	b, err := rec.encode()
	if err != nil {
		return err
	}
	c.task, err = s.starter.Create(ctx, runtime.Container{
		ID:       c.id,
		Rootfs:   s.rootfs,
		NetNS:    s.netns.Path,
		Hostname: cmp.Or(rec.Name, c.id),
		Mounts: append(s.resolvConfMount(ctx), specs.Mount{
			Destination: runtime.SocketDir, Type: "bind", Source: c.sockets,
			Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"},
		}),
		LogPath:  s.files.log(c.id),
		Restarts: true,
		Labels:   map[string]string{snapshot.LabelKind: snapshot.KindClone},
		Record:   b,
		Limits:   hostLimits(s.want.limits),
		Snapshot: c.id,
	})
	if err != nil {
		if _, prepareErr := s.rootfs(ctx); prepareErr != nil {
			return prepareErr
		}
		return fmt.Errorf("create container: %w", err)
	}
	s.undo.Add("remove container", func(ctx context.Context) error { return s.runner.Delete(ctx, c.id) })
	return s.step("created")
}

// resolvConfMount returns the mount that has a clone ask for names at the right place.
func (s *making) resolvConfMount(ctx context.Context) []specs.Mount {
	addr := s.clone.record().Addr
	if s.want.networks != "" || !addr.IsValid() {
		return nil
	}
	file := s.resolvConf(ctx, addr)
	if file == "" {
		return nil
	}
	return []specs.Mount{{
		Destination: "/etc/resolv.conf", Type: "bind", Source: file,
		Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"},
	}}
}

// rootfs waits for the snapshot.
func (s *making) rootfs(context.Context) ([]mount.Mount, error) {
	<-s.prepared
	return s.mounts, s.prepareErr
}

func (s *making) startTask(ctx context.Context) error {
	c := s.clone
	if err := s.deaths.watch(c); err != nil {
		return err
	}
	if err := s.starter.Start(ctx, c.task); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	c.change(func(r *record) { r.PID = c.task.PID() })
	return s.step("started")
}

// ready waits until the server answers.
func (s *making) ready(ctx context.Context) error {
	rctx, cancel := context.WithTimeout(ctx, s.startTimeout)
	defer cancel()
	err := s.starter.Ready(rctx, s.clone.live(), s.clone.died)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.explain(ctx, err, rctx.Err() != nil)
}

// explain says why a server did not answer, in its own words. The container goes first: then the log is complete.
func (s *making) explain(ctx context.Context, err error, timedOut bool) error {
	died := s.clone.isDead()
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	log := ""
	if derr := s.runner.Delete(dctx, s.clone.id); derr == nil { // else undo says so
		log = lastLines(s.files.log(s.clone.id), 10)
	}
	switch {
	case died:
		// A golden starts with the engine's settings, or it is none. With the caller's, the caller is told.
		var class error = errdefs.ErrDataLoss
		if len(s.want.settings) > 0 {
			class = errdefs.ErrInvalidArgument
		}
		err = fmt.Errorf("server ended with exit code %d before it answered: %w", s.clone.exit.Code, class)
	case timedOut:
		err = fmt.Errorf("server did not answer within %s: %w", s.startTimeout, context.DeadlineExceeded)
	default:
		err = fmt.Errorf("server did not answer: %w", err)
	}
	if log == "" {
		return err
	}
	return &logError{err, log}
}

// keep completes the record. It is kept before anybody hears of the clone, so that a restart does not take a clone for
// unfinished that somebody uses.
func (s *making) keep(ctx context.Context) error {
	if err := s.step("ready"); err != nil {
		return err
	}
	s.timings[api.StageTotal] = milliseconds(time.Since(s.begun))
	if err := s.registry.update(ctx, s.clone, func(r *record) {
		r.Ready, r.Timings = s.want.isComplete(), s.timings
		r.live(s.want.ttl)
	}); err != nil {
		return err
	}
	return s.step("kept")
}

// logError is an error with the last lines that the server wrote.
type logError struct {
	error
	log string
}

func (e *logError) Error() string { return e.error.Error() + "; its last words:\n" + e.log }

func (e *logError) Unwrap() error { return e.error }
