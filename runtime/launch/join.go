package launch

import (
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// Join describes a process that joins a running container.
type Join struct {
	ID      string // of the container
	Process *specs.Process
	Filter  *seccomp.Filter // the container's
	Cgroup  *cgroup.Group
	Stdio   Stdio // for a terminal it stays empty
}

// Exec starts a process in the container whose first process is init, and
// returns when its program runs. The returned file is the caller's end of the
// terminal, if the process has one. A process that the launcher does not do is of class
// NotImplemented.
func (l *Launcher) Exec(init *Process, j Join) (_ *Process, console *os.File, err error) {
	if err := checkProcess("process", j.Process); err != nil {
		return nil, nil, err
	}
	if err := init.Built(); err != nil {
		return nil, nil, fmt.Errorf("enter container: %w", err)
	}
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", init.PID))
	if err != nil {
		return nil, nil, fmt.Errorf("enter container: %w", err)
	}
	b := &builder{launcher: l, id: j.ID, ids: init.ids, cgroup: j.Cgroup, root: root, held: []*os.File{root}}
	defer func() { closeAll(b.held) }()
	n, err := unix.PidfdOpen(init.PID, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("enter container: %w", os.NewSyscallError("pidfd_open", err))
	}
	target := os.NewFile(uintptr(n), "container")
	b.held = append(b.held, target)
	if err := init.Signal(0); err != nil { // then these were not its files
		return nil, nil, fmt.Errorf("enter container: %w", err)
	}
	stdio := j.Stdio
	if j.Process.Terminal {
		if console, err = b.joinTerminal(j.Process.User, &stdio); err != nil {
			return nil, nil, err
		}
	}
	p, err := l.exec(target, b, j, stdio)
	if err != nil && console != nil {
		console.Close()
		console = nil
	}
	return p, console, err
}

func (l *Launcher) exec(target *os.File, b *builder, j Join, stdio Stdio) (*Process, error) {
	b.begin()
	if err := b.enterCgroup(); err != nil {
		return nil, err
	}
	raised, err := raised(j.Process.Rlimits)
	if err != nil {
		return nil, err
	}
	b.limit(raised)
	kinds := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP)
	if !b.ids.none() {
		kinds |= unix.CLONE_NEWUSER
	}
	b.add("join namespaces", unix.SYS_SETNS, b.file(target), kinds)
	b.keyring()
	home := func() string { return b.home(j.Process.User.UID) }
	if err := b.process(j.Process, stdio, j.Filter, home, false, -1); err != nil {
		return nil, err
	}
	p, err := l.fork(&b.program, forkOptions{pid: target, cgroup: b.cgroup})
	if err != nil {
		return nil, err
	}
	if err := p.await(false); err != nil {
		_ = p.discard() // it has ended by itself
		return nil, err
	}
	return p, nil
}
