// Package runtime is the contract of what runs: a Runner runs containers, an
// Engine knows one kind of database server, and a Workbench is what a golden
// build lends to an engine.
//
// The packages below implement it: containerd is the Runner, engine/… the
// Engines, manager the life of clones, build the golden builds, api and client
// the way in over HTTP.
package runtime

import (
	"context"
	"io"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Process is what runs in a container.
type Process struct {
	Args []string // Args[0] is an absolute path in the root filesystem, or looked up in Env's PATH
	Env  []string // "K=V", the whole environment
	Cwd  string   // "" means "/"
	// UID and GID run the process; it keeps no capability unless UID is 0, and
	// then containerd's default set.
	UID, GID uint32
	Terminal bool // with a pseudo terminal; stderr is then part of stdout
	// Stop ends it in order, with exit code StopCode; 0 is SIGTERM.
	Stop     syscall.Signal
	StopCode int
}

// Stdio is where a process reads and writes; nil means /dev/null.
type Stdio struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Container describes a container to be made.
type Container struct {
	ID string
	// Rootfs returns what the root is mounted from. It is called when the container is
	// recorded and before its task is made: the snapshot may be made meanwhile.
	Rootfs  func(ctx context.Context) ([]mount.Mount, error)
	Process Process
	// NetNS is the path of the network namespace to join; "" gives a new and
	// empty one, HostNetwork the host's.
	NetNS    string
	Hostname string
	Mounts   []specs.Mount // beside the standard ones (/proc, /dev, /dev/shm, /sys read-only …)
	// LogPath is the file that takes stdout and stderr, and goes on doing so
	// when this process is gone. "" discards them; a container made to be
	// waited for gives Stdio instead.
	LogPath string
	Stdio   *Stdio
	// Restarts has a first process that ends in order started again, in the same container; see launch.Restarts. Where a
	// Runner cannot, the container ends, as with any other exit code.
	Restarts bool
	Labels   map[string]string // found again by Runner.Containers
	// Record is kept with the container and given back by Runner.Containers.
	Record []byte
	Limits Limits
	// Snapshot is the key of the snapshot that Rootfs mounts, so that the
	// record of the container holds it.
	Snapshot string
}

// Limits bound what a container takes of the host; 0 is no bound.
type Limits struct {
	Memory int64   // bytes; what needs more is killed
	CPUs   float64 // of time, as in 1.5
	Pids   int64   // processes and threads
}

// Limiter is a Runner that changes limits of a container that runs.
type Limiter interface {
	SetLimits(ctx context.Context, id string, l Limits) error
}

// HostNetwork as Container.NetNS runs the container in the host's network
// namespace. Only golden builds use it, to dump a live database.
const HostNetwork = "host"

// Runner makes, finds and deletes containers. It is safe for concurrent use.
// Errors are of containerd/errdefs classes.
type Runner interface {
	// Create makes the container and its task, not started yet. An error
	// leaves nothing behind.
	Create(ctx context.Context, c Container) (Task, error)
	// Load returns the task of a container made earlier, maybe by another
	// process. NotFound if the container has no task (any more).
	Load(ctx context.Context, id string) (Task, error)
	// Containers lists the containers that have all the given labels.
	Containers(ctx context.Context, labels map[string]string) ([]ContainerInfo, error)
	// SetRecord replaces the record of a container. It holds until the machine is
	// started anew. Calls for one container must not overlap.
	SetRecord(ctx context.Context, id string, record []byte) error
	// Delete kills what runs in the container and removes its task, its mounts
	// and its record. It is idempotent.
	Delete(ctx context.Context, id string) error
	// Isolation says why containers that are made from now on have no user namespace, so that their users are this
	// host's; nil if each has one. It does not change while containers are made.
	Isolation() error
}

// Reserver is a Runner that can do a part of Create before, beside what else
// Create depends on.
type Reserver interface {
	// Reserve makes what depends on nothing but the container's id. Delete undoes
	// it, whether or not there has been a Create. It is called once, before
	// Create.
	Reserve(id string) error
}

// ContainerInfo is what is recorded of a container.
type ContainerInfo struct {
	ID     string
	Labels map[string]string
	Record []byte
}

// Task is the running part of a container.
type Task interface {
	ID() string
	// PID is that of the container's first process in the host's PID namespace.
	PID() int
	Start(ctx context.Context) error
	// Wait returns a channel that takes one Exit when the first process ends.
	// Call it before Start to miss nothing.
	Wait(ctx context.Context) (<-chan Exit, error)
	Signal(ctx context.Context, sig syscall.Signal) error
	// Exec runs another process in the container until it ends, and returns
	// its exit code. Resizes of the terminal are taken from size until it is
	// closed; nil is allowed.
	Exec(ctx context.Context, p Process, stdio Stdio, size <-chan WindowSize) (int, error)
	// Memory returns the memory that the container's cgroup is charged for, in
	// bytes, page cache excluded.
	Memory(ctx context.Context) (int64, error)
}

// Restarter is a Task that may be of a container with Restarts.
type Restarter interface {
	// Restart sends sig to the server, and returns when that has ended in order and another one was started. FailedPrecondition
	// where none is. When ctx ends first, the server may restart still.
	Restart(ctx context.Context, sig syscall.Signal) error
}

// WindowSize is the size of a terminal in characters.
type WindowSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// Exit is how a process ended.
type Exit struct {
	Code int // exit status, or 128 + signal
	At   time.Time
	Err  error // the wait itself went wrong
}
