package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	events "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	options "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
)

// empty is what calls return that return nothing.
func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}

// Exec adds a process to a container; Start starts it.
func (s *Service) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "id of process is empty")
	}
	spec := &specs.Process{}
	if err := json.Unmarshal(r.Spec.GetValue(), spec); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "parse process: %v", err)
	}
	spec.Terminal = r.Terminal
	if err := c.add(r.ExecID, spec, r); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.send(&events.TaskExecAdded{ContainerID: c.id, ExecID: r.ExecID})
	return empty(nil)
}

// State tells what becomes of a process.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	status := p.status()
	if status == task.Status_RUNNING && c.isPaused() {
		status = task.Status_PAUSED
	}
	id := c.id
	if p != c.init {
		id = p.id
	}
	exit := p.exitStatus()
	return &taskapi.StateResponse{
		ID: id, Bundle: c.bundle, Pid: uint32(p.pid()), Status: status,
		Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr, Terminal: p.terminal,
		ExitStatus: uint32(exit.Code), ExitedAt: timestamp(exit), ExecID: r.ExecID,
	}, nil
}

// Wait waits for the end of a process.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
	exit := p.exitStatus()
	return &taskapi.WaitResponse{ExitStatus: uint32(exit.Code), ExitedAt: timestamp(exit)}, nil
}

// Kill sends a signal to a process, or to all of a container.
func (s *Service) Kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	sig := unix.Signal(r.Signal)
	if r.All && p == c.init && sig != unix.SIGKILL { // which takes all along by itself
		return empty(c.signalAll(sig))
	}
	if err := p.signal(sig); err != nil {
		return empty(err)
	}
	if sig == unix.SIGKILL && c.isPaused() { // what is frozen does not die
		return empty(c.freeze(false))
	}
	return empty(nil)
}

func (c *container) signalAll(sig unix.Signal) error {
	pids, err := c.cgroup.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, sig) // it may have gone
	}
	return nil
}

// Pids lists the processes of a container. A sandbox has none of its own:
// containerd asks for them at each of its starts.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	if s.isSandbox(r.ID) {
		return &taskapi.PidsResponse{}, nil
	}
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	_ = c.init.proc.Built() // it has entered its cgroup, or ended
	pids, err := c.cgroup.Pids()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp := &taskapi.PidsResponse{}
	for _, pid := range pids {
		info := &task.ProcessInfo{Pid: uint32(pid)}
		if id := c.execOf(pid); id != "" {
			if info.Info, err = typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: id}); err != nil {
				return nil, errgrpc.ToGRPC(err)
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

func (c *container) execOf(pid int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.execs {
		if p.pid() == pid {
			return id
		}
	}
	return ""
}

// Pause stops all processes of a container.
func (s *Service) Pause(_ context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return s.freeze(r.ID, true, &events.TaskPaused{ContainerID: r.ID})
}

// Resume lets them go on.
func (s *Service) Resume(_ context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return s.freeze(r.ID, false, &events.TaskResumed{ContainerID: r.ID})
}

func (s *Service) freeze(id string, on bool, event any) (*emptypb.Empty, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	if status := c.init.status(); status != task.Status_RUNNING {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "container %s is %s", id, status)
	}
	if err := c.freeze(on); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.send(event)
	return empty(nil)
}

// ResizePty sets the size of a terminal.
func (s *Service) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return empty(p.streams.resize(uint16(r.Height), uint16(r.Width)))
}

// CloseIO closes the standard input of a process.
func (s *Service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.Stdin {
		p.streams.closeStdin()
	}
	return empty(nil)
}

// Checkpoint is not done.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "checkpoints")
}

// Update changes the limits of a container.
func (s *Service) Update(_ context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &res); err != nil {
		return nil, errgrpc.ToGRPCf(errdefs.ErrInvalidArgument, "parse limits: %v", err)
	}
	return empty(c.cgroup.Update(&res))
}

// Stats returns the metrics of a container's cgroup.
func (s *Service) Stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := c.cgroup.Stats()
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("read metrics of container %s: %w", c.id, err))
	}
	value, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskapi.StatsResponse{Stats: value}, nil
}

// Connect tells the processes' ids, that of the container 0 if there is none.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.container(r.ID); err == nil {
		resp.TaskPid = uint32(c.init.pid())
	}
	return resp, nil
}

// Shutdown ends the shim if it serves nothing: containerd calls it with each
// container that it deletes.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) == 0 && s.sandbox == "" {
		s.sd.Shutdown()
	}
	return empty(nil)
}
