package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
)

// Process is a child of the launcher. It is safe for concurrent use, except that
// Start and Wait are called once.
type Process struct {
	PID     int
	ids     IDs
	program *program // for its names of calls; nil once it runs
	cgroup  *cgroup.Group
	pidfd   *os.File
	status  *os.File
	gate    *os.File
	built   func() error // waits for a container to be; nil for one that joins
	idle    func() bool  // see neverRan; asked once, before it is reaped
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
	if err := p.goOn(); err != nil {
		return err
	}
	return p.await(false)
}

// goOn lets a child go on that waits.
func (p *Process) goOn() error {
	if _, err := p.gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	return nil
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
	case !gate && errors.Is(err, io.EOF) && !p.idle():
		p.program = nil
		return nil
	case p.cgroup != nil && p.cgroup.OutOfMemory():
		return fmt.Errorf("launch: the kernel killed the process before it ran its program, for want of memory: "+
			"the container's limit is too small, or its processes have it all: %w", errdefs.ErrFailedPrecondition)
	default:
		return fmt.Errorf("launch: the process was killed: %w", errors.Join(err, context.Canceled))
	}
}

// neverRan says of a child that has closed its status pipe, which an execve and its end do, whether it has ended before that
// execve: an execve changes the process's file before it closes the pipe, and a process that ends has no file by then.
func (p *Process) neverRan() bool {
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID)); err == nil {
		return false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
	return err == nil && strings.TrimSpace(string(name)) == InitName
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
	closeAll([]*os.File{p.status, p.gate}) // nil is none
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
	err = c.Read(func(n uintptr) bool {
		ended := []unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}
		if n, _ := unix.Poll(ended, 0); n == 0 {
			return false
		}
		p.idle()
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
