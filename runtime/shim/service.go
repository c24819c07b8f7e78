// Package shim is the containerd runtime io.containerd.ctrsnap.v1: a shim that
// launches containers by itself (package launch), many in one process.
//
// It has the task API, version 3, and the sandbox API, over ttrpc. A sandbox here is
// nothing but the shim's life: containers that carry its id are served by its
// process, which containerd then does not have to start. All state is in this
// process: if it dies, its containers die with it by the kernel's hand, and containerd cleans up by
// the shim's delete command (manager.go).
// See https://github.com/containerd/containerd/blob/v2.4.2/docs/runtime-v2.md.
package shim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	events "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// Name is containerd's name of the runtime.
const Name = "io.containerd.ctrsnap.v1"

// cgroupRoot is where hosts mount cgroups.
const cgroupRoot = "/sys/fs/cgroup"

// Service is the task API. It is safe for concurrent use.
type Service struct {
	ctx      context.Context // the shim's life, with containerd's namespace
	launcher *launch.Launcher
	host     *cgroup.Host
	sd       shutdown.Service
	events   chan any

	mu         sync.Mutex
	containers map[string]*container // nil values are being made
	made       *sync.Cond            // one of those was made, or was not
	filters    map[[sha256.Size]byte]*seccomp.Filter
	sandbox    string // id of the sandbox that holds the shim alive without containers; "" is none
}

var _ taskapi.TTRPCTaskService = (*Service)(nil)

// New returns the service of a shim, which publishes its events until sd is shut
// down.
func New(ctx context.Context, publisher shim.Publisher, sd shutdown.Service) (*Service, error) {
	l, err := launch.New()
	if err != nil {
		return nil, fmt.Errorf("start launcher: %w", err)
	}
	host, err := cgroup.NewHost(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if err := host.FavorMoves(); err != nil {
		log.G(ctx).WithError(err).Warn("containers start slowly")
	}
	s := &Service{
		ctx: ctx, launcher: l, host: host, sd: sd,
		events:     make(chan any, 128),
		containers: map[string]*container{},
		filters:    map[[sha256.Size]byte]*seccomp.Filter{},
	}
	s.made = sync.NewCond(&s.mu)
	go s.forward(publisher)
	return s, nil
}

// RegisterTTRPC registers both APIs.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	registerSandbox(server, s)
	return nil
}

// send publishes an event, after those sent before.
func (s *Service) send(e any) {
	select {
	case s.events <- e:
	case <-s.sd.Done():
	}
}

func (s *Service) forward(p shim.Publisher) {
	ctx := context.WithoutCancel(s.ctx)
	defer p.Close()
	publish := func(e any) {
		if err := p.Publish(ctx, runtime.GetTopic(e), e); err != nil {
			log.G(ctx).WithError(err).Warn("publish event") // the publisher tries again
		}
	}
	for {
		select {
		case e := <-s.events:
			publish(e)
			continue
		case <-s.sd.Done():
		}
		for {
			select {
			case e := <-s.events:
				publish(e)
			default:
				return
			}
		}
	}
}

// container returns a container that has been made. It waits for one that is being made:
// whoever asked for it may have died, and the next one, who asks whether it is there, is not to
// take it for gone.
func (s *Service) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	for ok && c == nil {
		s.made.Wait()
		c, ok = s.containers[id]
	}
	if c != nil {
		return c, nil
	}
	return nil, errgrpc.ToGRPCf(errdefs.ErrNotFound, "container %s", id)
}

// process returns a process of a container; "" is its first one.
func (s *Service) process(id, execID string) (*container, *process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(execID)
	return c, p, errgrpc.ToGRPC(err)
}

// filter compiles a profile, once for all containers that have it.
func (s *Service) filter(spec *launch.Spec) (*seccomp.Filter, error) {
	profile := spec.Linux.Seccomp
	if len(profile) == 0 || string(profile) == "null" {
		return nil, nil
	}
	digest := sha256.Sum256(profile)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.filters[digest]; f != nil {
		return f, nil
	}
	f, err := seccomp.Parse(profile)
	if err == nil {
		s.filters[digest] = f
	}
	return f, err
}

// Create launches a container as far as its program.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if r.Checkpoint != "" {
		return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "checkpoints")
	}
	if err := s.reserve(r.ID); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	c, err := (*container)(nil), ctx.Err() // of a caller that has died meanwhile
	if err == nil {
		c, err = s.create(ctx, r)
	}
	s.mu.Lock()
	if err != nil {
		delete(s.containers, r.ID)
	} else {
		s.containers[r.ID] = c
	}
	s.made.Broadcast()
	s.mu.Unlock()
	if err != nil {
		return nil, errgrpc.ToGRPC(refused(err))
	}
	s.send(&events.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: uint32(c.init.pid()),
		IO: &events.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	go s.watch(c, c.init)
	go s.watchMemory(c)
	return &taskapi.CreateTaskResponse{Pid: uint32(c.init.pid())}, nil
}

// refused keeps containerd from taking NotImplemented as a sign of an old shim
// and asking once more by an older API, which loses the reason.
func refused(err error) error {
	if errdefs.IsNotImplemented(err) {
		return fmt.Errorf("%s: %w", err.Error(), errdefs.ErrFailedPrecondition)
	}
	return err
}

func (s *Service) reserve(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.containers[id]; ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.containers[id] = nil
	return nil
}

func (s *Service) create(ctx context.Context, r *taskapi.CreateTaskRequest) (*container, error) {
	data, err := os.ReadFile(filepath.Join(r.Bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	spec, err := launch.ParseSpec(data)
	if err != nil {
		return nil, err
	}
	filter, err := s.filter(spec)
	if err != nil {
		return nil, err
	}
	group, err := s.host.Create(ctx, spec.Linux.CgroupsPath, spec.Linux.Resources)
	if err != nil {
		return nil, err
	}
	c := &container{id: r.ID, bundle: r.Bundle, filter: filter, cgroup: group, execs: map[string]*process{}}
	return c, c.launch(ctx, s.launcher, spec, r)
}

// Start lets a container's program run, or starts a process that was added.
func (s *Service) Start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.mu.Lock() // its exit is not told before its start
	defer p.mu.Unlock()
	if p == c.init {
		if err := p.start(); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		s.send(&events.TaskStart{ContainerID: c.id, Pid: uint32(p.proc.PID)})
		return &taskapi.StartResponse{Pid: uint32(p.proc.PID)}, nil
	}
	if err := c.startExec(s.launcher, p); err != nil {
		return nil, errgrpc.ToGRPC(refused(err))
	}
	s.send(&events.TaskExecStarted{ContainerID: c.id, ExecID: p.id, Pid: uint32(p.proc.PID)})
	go s.watch(c, p)
	return &taskapi.StartResponse{Pid: uint32(p.proc.PID)}, nil
}

// watch reaps a process and tells of its end, that of the container last.
func (s *Service) watch(c *container, p *process) {
	exit, err := p.proc.Wait()
	if err != nil {
		log.G(s.ctx).WithError(err).WithField("id", c.id).Error("wait for process")
	}
	id := p.id
	if p == c.init {
		id = c.id
		c.running.Wait() // the kernel has killed them
	}
	p.mu.Lock()
	pid := p.proc.PID
	p.ended(exit)
	s.send(&events.TaskExit{
		ContainerID: c.id, ID: id, Pid: uint32(pid), ExitStatus: uint32(exit.Code), ExitedAt: protobuf.ToTimestamp(exit.At),
	})
	close(p.exited)
	p.mu.Unlock()
	if p != c.init {
		c.running.Done()
		p.free(s.ctx) // whoever started it may never come to remove it
	}
}

// Delete removes a process that has ended, with the first one the container.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if err := p.finish(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	exit := p.exitStatus()
	if p != c.init {
		c.forget(p)
	} else if err := s.remove(ctx, c, exit); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskapi.DeleteResponse{
		Pid: uint32(p.pid()), ExitStatus: uint32(exit.Code), ExitedAt: timestamp(exit),
	}, nil
}

func (s *Service) remove(ctx context.Context, c *container, exit launch.Exit) error {
	if err := c.cgroup.Remove(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.containers, c.id)
	s.mu.Unlock()
	s.send(&events.TaskDelete{
		ContainerID: c.id, Pid: uint32(c.init.pid()), ExitStatus: uint32(exit.Code), ExitedAt: protobuf.ToTimestamp(exit.At),
	})
	return nil
}
