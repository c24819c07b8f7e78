package shim

import (
	"context"
	"os"
	goruntime "runtime"
	"sync"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// States of a sandbox, as containerd's CRI names them.
const (
	stateReady    = "SANDBOX_READY"
	stateNotReady = "SANDBOX_NOTREADY"
)

// answerPeriod is how long a shim that is told to end lives on, so that its answer
// gets out.
const answerPeriod = 20 * time.Millisecond

// sandboxService is the sandbox API: its sandbox is the shim, which is there for as long as
// the sandbox is, with or without containers.
type sandboxService struct {
	service *Service
	stop    sync.Once
	stopped chan struct{}
	created time.Time
}

var _ sandboxapi.TTRPCSandboxService = (*sandboxService)(nil)

func registerSandbox(server *ttrpc.Server, s *Service) {
	sandboxapi.RegisterTTRPCSandboxService(server, &sandboxService{
		service: s, stopped: make(chan struct{}), created: time.Now(),
	})
}

// CreateSandbox keeps the shim.
func (s *sandboxService) CreateSandbox(_ context.Context, r *sandboxapi.CreateSandboxRequest) (*sandboxapi.CreateSandboxResponse, error) {
	s.hold(r.SandboxID)
	return &sandboxapi.CreateSandboxResponse{}, nil
}

// hold keeps the shim for the sandbox of that id, or no longer.
func (s *sandboxService) hold(id string) {
	s.service.mu.Lock()
	defer s.service.mu.Unlock()
	s.service.sandbox = id
}

// isSandbox says whether id is that of the shim's sandbox.
func (s *Service) isSandbox(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return id != "" && s.sandbox == id
}

// StartSandbox does nothing: the shim runs.
func (s *sandboxService) StartSandbox(context.Context, *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	return &sandboxapi.StartSandboxResponse{Pid: uint32(os.Getpid()), CreatedAt: timestamppb.New(s.created)}, nil
}

// Platform is that of the host.
func (s *sandboxService) Platform(context.Context, *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: goruntime.GOOS, Architecture: goruntime.GOARCH}}, nil
}

// StopSandbox refuses while there are containers.
func (s *sandboxService) StopSandbox(context.Context, *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	if n := s.service.count(); n > 0 {
		return nil, errgrpc.ToGRPCf(errdefs.ErrFailedPrecondition, "sandbox has %d containers", n)
	}
	s.stop.Do(func() { close(s.stopped) })
	return &sandboxapi.StopSandboxResponse{}, nil
}

func (s *Service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.containers)
}

// WaitSandbox waits until the sandbox is stopped.
func (s *sandboxService) WaitSandbox(ctx context.Context, _ *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	select {
	case <-s.stopped:
		return &sandboxapi.WaitSandboxResponse{ExitedAt: timestamppb.Now()}, nil
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
}

// SandboxStatus tells whether the sandbox was stopped.
func (s *sandboxService) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	state := stateReady
	select {
	case <-s.stopped:
		state = stateNotReady
	default:
	}
	return &sandboxapi.SandboxStatusResponse{
		SandboxID: r.SandboxID, Pid: uint32(os.Getpid()), State: state, CreatedAt: timestamppb.New(s.created),
	}, nil
}

// PingSandbox answers.
func (s *sandboxService) PingSandbox(context.Context, *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	return &sandboxapi.PingResponse{}, nil
}

// ShutdownSandbox ends the shim, and with it what it still runs.
func (s *sandboxService) ShutdownSandbox(context.Context, *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	s.hold("")
	s.stop.Do(func() { close(s.stopped) })
	time.AfterFunc(answerPeriod, s.service.sd.Shutdown)
	return &sandboxapi.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics is not done: containers have their own.
func (s *sandboxService) SandboxMetrics(context.Context, *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "metrics of sandboxes")
}

// UpdateSandbox is not done.
func (s *sandboxService) UpdateSandbox(context.Context, *sandboxapi.UpdateSandboxRequest) (*sandboxapi.UpdateSandboxResponse, error) {
	return nil, errgrpc.ToGRPCf(errdefs.ErrNotImplemented, "update of sandboxes")
}
