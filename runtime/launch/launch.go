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
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync"

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
	jobs     chan func()
	pid, net *os.File // the launcher's own namespaces
}

// New starts a launcher, which ends with the process or by Close.
func New() (*Launcher, error) {
	pid, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		return nil, err
	}
	net, err := os.Open("/proc/self/ns/net")
	if err != nil {
		pid.Close()
		return nil, err
	}
	l := &Launcher{jobs: make(chan func()), pid: pid, net: net}
	go func() {
		runtime.LockOSThread()
		for job := range l.jobs {
			job()
		}
		// A thread that ends takes with it what it forked for others before.
		runtime.UnlockOSThread()
	}()
	return l, nil
}

// Close ends the launcher. Its processes have ended before.
func (l *Launcher) Close() {
	close(l.jobs)
	l.pid.Close()
	l.net.Close()
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
	b := &builder{
		launcher: l, id: c.ID, spec: c.Spec, ids: c.Spec.IDs(), cgroup: c.Cgroup, filter: c.Filter,
		root: root, files: []*os.File{root},
	}
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
	o := forkOptions{flags: b.flags &^ unix.CLONE_NEWCGROUP, gate: true}
	if !b.ids.none() {
		o.net, o.adopt = b.net, b.adopt
	}
	p, err := l.fork(&b.program, o)
	if err != nil {
		return nil, err
	}
	p.ids = b.ids
	p.built = sync.OnceValue(func() error { return p.await(true) })
	return p, nil
}

// forkOptions are what a child begins with.
type forkOptions struct {
	flags    uint64              // of clone
	gate     bool                // it waits for us
	pid, net *os.File            // namespaces to be in; nil is the launcher's
	adopt    func(pid int) error // what is done for it before it goes on
}

// fork runs a program in a child.
func (l *Launcher) fork(prog *program, o forkOptions) (p *Process, err error) {
	l.do(func() {
		err = l.in(o.net, unix.CLONE_NEWNET, func() error {
			return l.in(o.pid, unix.CLONE_NEWPID, func() error {
				p, err = start(prog, o)
				return err
			})
		})
	})
	if err != nil && p != nil {
		err = errors.Join(err, p.discard())
		p = nil
	}
	return p, err
}

// in runs fn on the launcher's thread in a namespace, if there is one.
func (l *Launcher) in(ns *os.File, kind int, fn func() error) error {
	if ns == nil {
		return fn()
	}
	if err := setns(ns, kind); err != nil {
		return err
	}
	own := l.pid
	if kind == unix.CLONE_NEWNET {
		own = l.net
	}
	return errors.Join(fn(), setns(own, kind))
}

func setns(f *os.File, kind int) error {
	return os.NewSyscallError("setns", unix.Setns(int(fd(f)), kind))
}

// start forks. The pipes are made and our copies of the child's ends closed on
// the launcher's thread, so that no other child has them.
func start(prog *program, o forkOptions) (*Process, error) {
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
	if o.gate {
		if err := pipe(pipes[2:]); err != nil {
			return nil, err
		}
	}
	prog.connect(pipes[1], pipes[2])
	pidfd := int32(-1)
	args := &cloneArgs{flags: o.flags | unix.CLONE_PIDFD, pidfd: uint64(address(prog, &pidfd)), exitSignal: uint64(unix.SIGCHLD)}
	pid, err := prog.fork(args, pipes[1])
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, program: prog, pidfd: pollable(int(pidfd), "pidfd"), status: pollable(pipes[0], "status")}
	pipes[0] = 0
	if o.gate {
		p.gate = os.NewFile(uintptr(pipes[3]), "gate")
		pipes[3] = 0
	}
	if o.adopt == nil {
		return p, nil
	}
	if err := o.adopt(pid); err != nil {
		return p, err
	}
	return p, p.goOn()
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
