package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch"
	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
)

// cleanPeriod is how long the leftovers of a dead shim's container are removed.
const cleanPeriod = 4 * time.Second

// Manager is what containerd calls the shim's program for: to start a shim, and
// to clean up after one that died.
type Manager struct{}

var _ shim.Shim = Manager{}

// Name returns the name of the runtime.
func (Manager) Name() string { return Name }

// Start starts the process of a shim for a sandbox, or for a container that is in
// none, and returns its address.
func (m Manager) Start(ctx context.Context, params *bootapi.BootstrapParams) (_ *bootapi.BootstrapResult, err error) {
	dir := params.GetSocketDir()
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	address, err := shim.CreateSocketAddress(ctx, dir, params.GetContainerdGrpcAddress(), params.GetInstanceID(), false)
	if err != nil {
		return nil, err
	}
	l, err := listen(address)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	defer l.Close() //nolint:errcheck // the shim has a copy
	l.SetUnlinkOnClose(false)
	socket, err := l.File()
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	if err := m.spawn(ctx, params, socket); err != nil {
		return nil, errors.Join(err, shim.RemoveSocket(address))
	}
	return &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}, nil
}

// listen takes over the socket of a shim that died.
func listen(address string) (*net.UnixListener, error) {
	l, err := shim.NewSocket(address)
	if err == nil || !shim.SocketEaddrinuse(err) {
		return l, err
	}
	if shim.CanConnect(address) {
		return nil, fmt.Errorf("a shim answers there: %w", errdefs.ErrAlreadyExists)
	}
	if err := shim.RemoveSocket(address); err != nil {
		return nil, err
	}
	return shim.NewSocket(address)
}

// spawn starts this program once more, as the shim.
func (m Manager) spawn(ctx context.Context, params *bootapi.BootstrapParams, socket *os.File) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "-namespace", ns, "-id", params.GetInstanceID(), "-address", params.GetContainerdGrpcAddress())
	if params.GetLogLevel() <= bootapi.LogLevel_LOG_LEVEL_DEBUG {
		cmd.Args = append(cmd.Args, "-debug")
	}
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := shim.AdjustOOMScore(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return cmd.Process.Release() // it outlives this process
}

// Stop removes what is left of a container whose shim died: its cgroup. Its processes died
// with the shim, and so did its mounts.
func (Manager) Stop(ctx context.Context, _ string) (shim.StopStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, cleanPeriod)
	defer cancel()
	status := shim.StopStatus{ExitStatus: 128 + int(unix.SIGKILL), ExitedAt: time.Now()}
	data, err := os.ReadFile("config.json") // containerd runs this in the bundle
	if errors.Is(err, fs.ErrNotExist) {
		return status, nil // a sandbox
	}
	var spec launch.Spec
	if err == nil {
		err = json.Unmarshal(data, &spec)
	}
	if err != nil {
		return status, fmt.Errorf("read specification: %w", err)
	}
	if spec.Linux == nil || spec.Linux.CgroupsPath == "" {
		return status, nil
	}
	host, err := cgroup.NewHost(cgroupRoot)
	if err != nil {
		return status, err
	}
	return status, host.Group(spec.Linux.CgroupsPath).Remove(ctx)
}

// Info describes the runtime.
func (Manager) Info(context.Context, io.Reader) (*types.RuntimeInfo, error) {
	return &types.RuntimeInfo{
		Name:    Name,
		Version: &types.RuntimeVersion{Version: version.Version, Revision: version.Revision},
	}, nil
}
