// Package launch starts containers from OCI specifications without runc: for each, one process is forked, and nothing
// executed but the container's own program.
//
// All that a container's first process does before its program is a list of
// system calls, made by the launcher and run by a child that runs nothing else. The child is forked by a small helper
// (helper.go, helper/ctrsnap-init.c), so that it has a copy of the helper's memory and not of ours: in the container's cgroup
// the kernel may kill it for want of memory, and who shares memory with it dies along. The root filesystem and binds are mounts that are attached
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

// Launcher has its helper fork all children, which are this process's. They and the helper are killed by the kernel when the
// thread that has started the helper ends, however it ends; so that thread lives as long as the launcher. It is safe for
// concurrent use.
type Launcher struct {
	jobs    chan func()
	net     *os.File // the launcher's own namespace
	program *os.File // the helper's

	mu     sync.Mutex // of orders to the helper
	helper *helper    // nil until it is started anew
}

// New starts a launcher, which ends with the process or by Close.
func New() (_ *Launcher, err error) {
	l := &Launcher{jobs: make(chan func())}
	if l.program, err = sealed(); err != nil {
		return nil, err
	}
	if l.net, err = os.Open("/proc/self/ns/net"); err != nil {
		l.program.Close()
		return nil, err
	}
	go func() {
		runtime.LockOSThread()
		for job := range l.jobs {
			job()
		}
		// A thread that ends takes with it what it started for others before.
		runtime.UnlockOSThread()
	}()
	l.do(func() { l.helper, err = startHelper(l.program) })
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Close ends the launcher. Its processes have ended before.
func (l *Launcher) Close() {
	if l.helper != nil {
		l.helper.end()
	}
	close(l.jobs)
	closeAll([]*os.File{l.program, l.net})
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
		root: root, held: []*os.File{root},
	}
	defer func() { closeAll(b.held) }()
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
	o := forkOptions{flags: b.flags &^ unix.CLONE_NEWCGROUP, cgroup: b.cgroup}
	if !b.ids.none() {
		o.net = b.net
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
	flags    uint64        // of clone
	pid, net *os.File      // namespaces to be in, or a pidfd of a process that is; nil is the launcher's
	cgroup   *cgroup.Group // that the child enters; may be nil
}

// fork runs a program in a child.
func (l *Launcher) fork(prog *program, o forkOptions) (_ *Process, err error) {
	var status, gate [2]int
	if err := unix.Pipe2(status[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	theirs := []*os.File{os.NewFile(uintptr(status[1]), "status")}
	defer func() { closeAll(theirs) }()
	p := &Process{program: prog, cgroup: o.cgroup, status: pollable(status[0], "status")}
	p.idle = sync.OnceValue(p.neverRan)
	if err := unix.Pipe2(gate[:], unix.O_CLOEXEC); err != nil {
		p.Close()
		return nil, os.NewSyscallError("pipe2", err)
	}
	theirs = append(theirs, os.NewFile(uintptr(gate[0]), "gate"))
	p.gate = os.NewFile(uintptr(gate[1]), "gate")
	p.PID, err = l.order(prog, o, append(theirs, p.gate))
	if p.PID == 0 {
		p.Close()
		return nil, err
	}
	var perr error
	if p.pidfd, perr = openProcess(p.PID); perr != nil {
		p.Close()
		return nil, errors.Join(err, perr)
	}
	if err != nil {
		return nil, errors.Join(err, p.discard())
	}
	return p, nil
}

// openProcess returns a pidfd of a child of ours. One that cannot be watched is ended.
func openProcess(pid int) (*os.File, error) {
	n, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // it is ours until it is reaped
		_, werr := unix.Wait4(pid, nil, unix.WALL, nil)
		return nil, errors.Join(os.NewSyscallError("pidfd_open", err), werr)
	}
	return os.NewFile(uintptr(n), "pidfd"), nil
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
