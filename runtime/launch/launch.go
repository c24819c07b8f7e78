// Package launch starts containers from OCI specifications without runc: in the
// process of the caller, with nothing executed but the container's own program.
//
// All that a container's first process does before its program is a list of
// system calls, made by the launcher and run by a forked child that runs nothing
// else (fork.go). The root filesystem and binds are mounts that are attached
// nowhere when the child begins (rootfs.go): it attaches them in its own mount
// namespace, so the host's mount table never has them, and whatever dies, they go.
//
// What a specification asks for and this package does not do is refused by
// [Check], never left out.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// Stdio are the standard streams of a process; nil is the container's /dev/null.
// The launcher does not close them.
type Stdio struct {
	Stdin, Stdout, Stderr *os.File
	slave                 string // path of the terminal in the container
}

// Config describes a container to be launched.
type Config struct {
	ID     string
	Bundle string // an existing directory with a directory rootfs
	Rootfs []mount.Mount
	Spec   *Spec
	Filter *seccomp.Filter // the compiled profile of Spec
	Cgroup *cgroup.Group   // made for this container
	Stdio  Stdio           // for a terminal it stays empty
}

// Launcher forks all children from one thread that lives as long as it does: the
// kernel kills them when this thread ends, however it ends. It is safe for concurrent use.
type Launcher struct {
	jobs chan func()
	pid  *os.File // the launcher's own PID namespace
}

// New starts a launcher. It has no end but that of the process.
func New() (*Launcher, error) {
	ns, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	l := &Launcher{jobs: make(chan func()), pid: ns}
	go func() {
		runtime.LockOSThread() // never unlocked
		for job := range l.jobs {
			job()
		}
	}()
	return l, nil
}

// do runs fn on the launcher's thread.
func (l *Launcher) do(fn func()) {
	done := make(chan struct{})
	l.jobs <- func() {
		defer close(done)
		fn()
	}
	<-done
}

// Create launches a container as far as its program, which waits for
// [Process.Start]. It returns while the child builds the container: what goes
// wrong there ends the child, and Start says what it was. An error leaves nothing behind
// but the cgroup. The returned file is the caller's end of the terminal, if the
// container has one.
func (l *Launcher) Create(c Config) (_ *Process, console *os.File, err error) {
	root, err := openRoot(c.Rootfs, filepath.Join(c.Bundle, "rootfs"))
	if err != nil {
		return nil, nil, err
	}
	b := &builder{id: c.ID, spec: c.Spec, cgroup: c.Cgroup, filter: c.Filter, root: root, bundle: c.Bundle, files: []*os.File{root}}
	defer func() { closeAll(b.files) }()
	stdio := c.Stdio
	if c.Spec.Process.Terminal {
		console, err = b.openTerminal(&stdio)
		if err != nil {
			return nil, nil, err
		}
	}
	p, err := l.create(b, stdio)
	if err != nil && console != nil {
		console.Close()
		console = nil
	}
	return p, console, err
}

func (l *Launcher) create(b *builder, stdio Stdio) (*Process, error) {
	if err := b.build(stdio); err != nil {
		return nil, err
	}
	p, err := l.fork(&b.program, b.flags&^unix.CLONE_NEWCGROUP, true, nil)
	if err != nil {
		return nil, err
	}
	p.built = sync.OnceValue(func() error { return p.await(true) })
	return p, nil
}

// fork runs a program in a child, in the PID namespace ns if there is one.
func (l *Launcher) fork(prog *program, flags uint64, gate bool, ns *os.File) (p *Process, err error) {
	l.do(func() {
		if ns == nil {
			p, err = start(prog, flags, gate)
			return
		}
		if err = setns(ns, unix.CLONE_NEWPID); err != nil {
			return
		}
		p, err = start(prog, flags, gate)
		err = errors.Join(err, setns(l.pid, unix.CLONE_NEWPID))
	})
	return p, err
}

func setns(f *os.File, kind int) error {
	return os.NewSyscallError("setns", unix.Setns(int(fd(f)), kind))
}

// start forks. The pipes are made and our copies of the child's ends closed on
// the launcher's thread, so that no other child has them.
func start(prog *program, flags uint64, gate bool) (*Process, error) {
	var pipes [4]int // status read, write; gate read, write
	defer func() {
		for _, n := range pipes {
			if n > 0 {
				_ = unix.Close(n) // a pipe's
			}
		}
	}()
	if err := pipe(pipes[:2]); err != nil {
		return nil, err
	}
	if gate {
		if err := pipe(pipes[2:]); err != nil {
			return nil, err
		}
	}
	prog.connect(pipes[1], pipes[2])
	pidfd := int32(-1)
	args := &cloneArgs{flags: flags | unix.CLONE_PIDFD, pidfd: uint64(address(prog, &pidfd)), exitSignal: uint64(unix.SIGCHLD)}
	pid, err := prog.fork(args, pipes[1])
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, program: prog, pidfd: pollable(int(pidfd), "pidfd"), status: pollable(pipes[0], "status")}
	pipes[0] = 0
	if gate {
		p.gate = os.NewFile(uintptr(pipes[3]), "gate")
		pipes[3] = 0
	}
	return p, nil
}

func pipe(ends []int) error {
	return os.NewSyscallError("pipe2", unix.Pipe2(ends, unix.O_CLOEXEC))
}

// pollable hands a descriptor to the runtime's poller.
func pollable(n int, name string) *os.File {
	_ = unix.SetNonblock(n, true) // else reads take a thread each
	return os.NewFile(uintptr(n), name)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Process is a child of the launcher. It is safe for concurrent use, except that
// Start and Wait are called once.
type Process struct {
	PID     int
	program *program // for its names of calls; nil once it runs
	pidfd   *os.File
	status  *os.File
	gate    *os.File
	built   func() error // waits for a container to be; nil for one that joins
}

// Exit is how a process ended.
type Exit struct {
	Code int // exit status, or 128 + signal
	At   time.Time
}

// Built waits until the container is there that Create began, and returns why it
// cannot be.
func (p *Process) Built() error { return p.built() }

// Start lets the program of a container run, and returns when the kernel has taken
// it, or why not. The process ends after an error.
func (p *Process) Start() error {
	defer p.gate.Close()
	if err := p.Built(); err != nil {
		return err
	}
	if _, err := p.gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return p.await(false)
}

// await waits for a child to be ready, or to have executed its program.
func (p *Process) await(gate bool) error {
	var r report
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	_, err := io.ReadFull(p.status, buf)
	switch {
	case gate && err == nil && r.call == ready:
		return nil
	case err == nil && r.call != ready:
		return p.program.fail(r)
	case !gate && errors.Is(err, io.EOF):
		p.program = nil
		return nil
	default:
		return fmt.Errorf("launch: the process was killed: %w", errors.Join(err, context.Canceled))
	}
}

// discard kills and reaps a process that is of no use.
func (p *Process) discard() error {
	err := p.Signal(unix.SIGKILL)
	_, werr := p.Wait()
	p.Close()
	return errors.Join(err, werr)
}

// Signal sends a signal. ESRCH says that the process has ended.
func (p *Process) Signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(fd(p.pidfd)), sig, nil, 0)
	if errors.Is(err, unix.EBADF) { // it has been reaped
		return unix.ESRCH
	}
	return err
}

// Close closes what is left of a process that has ended. It is idempotent.
func (p *Process) Close() {
	p.status.Close()
	if p.gate != nil {
		p.gate.Close()
	}
}

// Wait waits for the end of the process, without a thread, and reaps it;
// Signal fails from then on. Close closes the rest.
func (p *Process) Wait() (e Exit, err error) {
	c, err := p.pidfd.SyscallConn()
	if err != nil {
		return e, err
	}
	var status unix.WaitStatus
	var werr error
	err = c.Read(func(uintptr) bool {
		var pid int
		for {
			pid, werr = unix.Wait4(p.PID, &status, unix.WNOHANG|unix.WALL, nil)
			if !errors.Is(werr, unix.EINTR) {
				return pid != 0 || werr != nil
			}
		}
	})
	e.At = time.Now()
	e.Code = status.ExitStatus()
	if status.Signaled() {
		e.Code = 128 + int(status.Signal())
	}
	p.pidfd.Close()
	return e, errors.Join(err, werr)
}
