package manager

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	"github.com/ctrsnap/ctrsnap/snapshot"
	"github.com/ctrsnap/ctrsnap/snapshot/undo"
)

// maxSocketPath is the longest path of a unix socket: see unix(7), sun_path,
// less the final NUL.
const maxSocketPath = 107

// starter makes one clone, step by step.
type starter struct {
	*Manager
	want  *plan
	clone *clone
	undo  undo.Stack
	begun time.Time

	// prepared is closed when the snapshot is there, or prepareErr says why not.
	prepared   chan struct{}
	prepareErr error
	mounts     []mount.Mount
	netns      network.Namespace

	mu      sync.Mutex
	timings api.Timings
}

// start makes one clone and returns when it has answered a query. An error
// leaves nothing of it behind.
func (m *Manager) start(ctx context.Context, want *plan, name string) (*clone, error) {
	s := &starter{Manager: m, want: want, begun: time.Now(), timings: api.Timings{}}
	s.clone = &clone{
		id:     kind.Clone.New(),
		golden: want.golden,
		engine: want.engine,
		died:   make(chan struct{}),
		gone:   make(chan struct{}),
	}
	s.clone.rec = newRecord(s.clone.id, want, name, s.begun)
	s.clone.rec.Isolation = isolation(m.opts.Runner.Isolation())
	m.own(s.clone.id)
	if err := s.run(ctx); err != nil {
		err = s.fail(ctx, err)
		m.observed(ctx, Made{Golden: want.golden.Ref(), Member: want.member, Began: s.begun, Timings: s.timings, Err: err})
		return nil, err
	}
	m.observed(ctx, Made{Golden: want.golden.Ref(), Member: want.member, Began: s.begun, Timings: s.timings})
	m.log.Info("clone ready", "clone", s.clone.id, "golden", want.golden.Ref().String(), "ms", s.timings[api.StageTotal], "pool", want.member)
	return s.clone, nil
}

// fail undoes what was made. What could not be undone is torn down again until
// it is gone.
func (s *starter) fail(ctx context.Context, err error) error {
	if undoErr := s.undo.Run(ctx, undoTimeout); undoErr != nil {
		s.teardown(s.clone.id)
		return errors.Join(err, fmt.Errorf("undo clone %s: %w", s.clone.id, undoErr))
	}
	s.disown(s.clone.id)
	return err
}

func (s *starter) run(ctx context.Context) error {
	s.prepared = make(chan struct{})
	go func() {
		defer close(s.prepared)
		s.prepareErr = s.stage(ctx, api.StagePrepare, s.prepareSnapshot)
	}()
	defer func() { <-s.prepared }() // what it made is undone after it
	if err := s.surround(ctx); err != nil {
		return err
	}
	if err := s.connect(); err != nil {
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
func (s *starter) stage(ctx context.Context, stage api.Stage, run func(context.Context) error) error {
	begun := time.Now()
	err := run(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timings[stage] = milliseconds(time.Since(begun))
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// surround makes side by side what a container needs before it is one, but for its
// snapshot: that is needed by the task only.
func (s *starter) surround(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.stage(ctx, api.StageNetwork, s.prepareNetwork) })
	g.Go(s.reserve)
	return g.Wait()
}

func (s *starter) prepareSnapshot(ctx context.Context) (err error) {
	id := s.clone.id
	s.mounts, err = s.opts.Store.Prepare(ctx, id, s.want.golden)
	if err != nil {
		return fmt.Errorf("prepare snapshot: %w", err)
	}
	s.undo.Add("remove snapshot", func(ctx context.Context) error { return s.opts.Store.Remove(ctx, id) })
	return s.step("prepared")
}

func (s *starter) prepareNetwork(ctx context.Context) (err error) {
	id := s.clone.id
	s.netns, err = s.addNetwork(ctx)
	if err != nil {
		return fmt.Errorf("add network: %w", err)
	}
	s.undo.Add("remove network", func(ctx context.Context) error { return s.opts.Network.Remove(ctx, id) })
	return s.step("connected")
}

// reserve makes the directories and what the container has from the runner before
// it is one. The clone's own directory comes first: Recover finds the rest by it.
func (s *starter) reserve() error {
	if err := errors.Join(s.makeFiles(), s.step("files")); err != nil {
		return err
	}
	r, ok := s.opts.Runner.(runtime.Reserver)
	if !ok {
		return nil
	}
	id := s.clone.id
	s.undo.Add("remove container", func(ctx context.Context) error { return s.opts.Runner.Delete(ctx, id) })
	if err := r.Reserve(id); err != nil {
		return fmt.Errorf("reserve container: %w", err)
	}
	return s.step("reserved")
}

// connect finds out how the clone will be reached. That is known before it
// runs, and so is a socket path that is too long for the kernel.
func (s *starter) connect() error {
	c := s.clone
	if len(s.netns.Addrs) > 0 {
		c.rec.Addr, c.rec.Addrs = s.netns.Addrs[0], s.netns.Addrs
	}
	conn, err := c.engine.Connect(c.golden, s.endpoint(c.id, c.rec.Addr, 0))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if len(conn.Socket) > maxSocketPath {
		return snapshot.WithHint(
			fmt.Errorf("socket path %s is longer than %d bytes: %w", conn.Socket, maxSocketPath, errdefs.ErrFailedPrecondition),
			"configure a shorter run directory")
	}
	c.rec.connection = connection(conn)
	return nil
}

// create makes the container and its task.
func (s *starter) create(ctx context.Context) error {
	c := s.clone
	rec, err := c.rec.encode()
	if err != nil {
		return err
	}
	hostname := c.rec.Name
	if hostname == "" {
		hostname = c.id
	}
	c.task, err = s.opts.Runner.Create(ctx, runtime.Container{
		ID:       c.id,
		Rootfs:   s.rootfs,
		Process:  s.want.process,
		NetNS:    s.netns.Path,
		Hostname: hostname,
		Mounts: append(s.resolvConf(ctx), specs.Mount{
			Destination: runtime.SocketDir, Type: "bind", Source: s.dirs.Sockets(c.id),
			Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"},
		}),
		LogPath:  s.logPath(c.id),
		Labels:   map[string]string{snapshot.LabelKind: snapshot.KindClone},
		Record:   rec,
		Limits:   hostLimits(s.want.limits),
		Snapshot: c.id,
	})
	if err != nil {
		if _, prepareErr := s.rootfs(ctx); prepareErr != nil {
			return prepareErr
		}
		return fmt.Errorf("create container: %w", err)
	}
	s.undo.Add("remove container", func(ctx context.Context) error { return s.opts.Runner.Delete(ctx, c.id) })
	return s.step("created")
}

// rootfs waits for the snapshot.
func (s *starter) rootfs(context.Context) ([]mount.Mount, error) {
	<-s.prepared
	return s.mounts, s.prepareErr
}

// makeFiles makes the directory of the socket and the log file.
func (s *starter) makeFiles() error {
	id := s.clone.id
	s.undo.Add("remove files", func(context.Context) error { return s.removeFiles(id) })
	err := s.dirs.Make(id)
	if uid := s.want.caller.UID(); err == nil && uid > 0 { // a member of the pool is nobody's yet
		err = s.dirs.Admit(id, uid)
	}
	if err != nil {
		return err
	}
	log, err := os.OpenFile(s.logPath(id), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("make log file: %w", err)
	}
	return log.Close()
}

func (s *starter) startTask(ctx context.Context) error {
	exits, err := s.clone.task.Wait(s.ctx)
	if err != nil {
		return fmt.Errorf("wait for server: %w", err)
	}
	s.wg.Go(func() { s.watch(s.clone, exits) })
	if err := s.clone.task.Start(ctx); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	s.clone.rec.PID = s.clone.task.PID()
	return s.step("started")
}

// ready waits until the server answers. A member of the pool, and one with settings that
// nobody has tried, has then answered.
func (s *starter) ready(ctx context.Context) error {
	c := s.clone
	rctx, cancel := context.WithTimeout(ctx, s.opts.StartTimeout)
	defer cancel()
	err := c.engine.Ready(rctx, c.golden, s.live(c), c.died)
	// A golden's databases have been connected to with its own settings. A
	// connection more would double what the caller's own costs.
	if err == nil && (s.want.member || len(s.want.settings) > 0) {
		err = c.engine.Query(rctx, c.golden, s.live(c))
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.explain(ctx, err, rctx.Err() != nil)
}

// explain says why a server did not answer, in its own words. The container
// goes first: then the log is complete.
func (s *starter) explain(ctx context.Context, err error, timedOut bool) error {
	died := s.clone.isDead()
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	log := ""
	if derr := s.opts.Runner.Delete(dctx, s.clone.id); derr == nil { // else undo says so
		log = lastLines(s.logPath(s.clone.id), 10)
	}
	switch {
	case died:
		s.Manager.mu.Lock()
		code := s.clone.exit.Code
		s.Manager.mu.Unlock()
		// A golden starts with the engine's settings, or it is none. With the
		// caller's, the caller is told.
		var class error = errdefs.ErrDataLoss
		if len(s.want.settings) > 0 {
			class = errdefs.ErrInvalidArgument
		}
		err = fmt.Errorf("server ended with exit code %d before it answered: %w", code, class)
	case timedOut:
		err = fmt.Errorf("server did not answer within %s: %w", s.opts.StartTimeout, context.DeadlineExceeded)
	default:
		err = fmt.Errorf("server did not answer: %w", err)
	}
	if log == "" {
		return err
	}
	return &logError{err, log}
}

// keep completes the record. It is kept before anybody hears of the clone, so
// that a restart does not take a clone for unfinished that somebody uses.
func (s *starter) keep(ctx context.Context) error {
	if err := s.step("ready"); err != nil {
		return err
	}
	s.timings[api.StageTotal] = milliseconds(time.Since(s.begun))
	if err := s.update(ctx, s.clone, func(r *record) {
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
