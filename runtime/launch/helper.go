package launch

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// built has ctrsnap-init.c and, if the makefile has compiled it, ctrsnap-init-GOARCH.
//
//go:embed helper
var built embed.FS

// initProgram returns the helper's program. Tests have their own.
var initProgram = func() ([]byte, error) { return programFor(runtime.GOARCH) }

func programFor(arch string) ([]byte, error) {
	b, err := built.ReadFile("helper/" + InitName + "-" + arch)
	if err != nil {
		return nil, fmt.Errorf("this program was built without %s, which starts containers: build it by make: %w", InitName, err)
	}
	return b, nil
}

// InitName is the name of the helper, of what it forks until that runs its program, and of the first process of a container
// with [Restarts].
const InitName = "ctrsnap-init"

// Descriptors that a child begins with, as ctrsnap-init.c numbers them: its pipes to the launcher, then the files of its
// program.
const (
	statusFD = 6
	gateFD   = 7
	goFD     = 8 // the other end of the gate, which the helper uses and the child closes
	filesFD  = 9
)

// mostFiles is SCM_MAX_FD of the kernel.
const mostFiles = 253

// dataAddress is where a program's data begin in the helper and its children. Nothing else is there: a static
// program lies below, what the kernel maps far above.
const dataAddress = 1 << 32

// keepFirst in place of the number of a system call has the first process of a container stay and go on in a child: KEEP
// of ctrsnap-init.c.
const keepFirst = math.MaxUint64

// call is one system call of a program, and where to go on. The zero value of
// each field but nr and args does what is usual: fail on an error, else go on.
// It is struct call of ctrsnap-init.c.
type call struct {
	nr     uint64
	args   [6]uint64
	inside uint64   // address of what must be '/' afterwards
	ignore [3]int32 // errors that are none
	branch [3]int32 // calls to leave out after each of them
	use    uint8    // bits: arguments that are the saved result
	save   bool     // keep the result
	some   bool     // a result of 0 is an error: the other end is gone
}

// order is struct order of ctrsnap-init.c.
type order struct {
	flags, address, calls                                uint64
	size, count, ours, files, status, goOn, netns, pidns uint32
}

// answer is struct answer of ctrsnap-init.c.
type answer struct{ pid, call, errno uint32 }

// report is what a child writes to its status pipe: its progress, or the call
// that failed.
type report struct {
	call  uint32
	errno uint32
}

// ready as the call of a report says that all is set up.
const ready = ^uint32(0)

// memory returns the bytes of v, as C has them.
func memory[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// sealed returns the helper's program as a file that nobody can change: what a container executes as /proc/self/exe before it
// runs its own program is this.
func sealed() (*os.File, error) {
	program, err := initProgram()
	if err != nil {
		return nil, err
	}
	n, err := unix.MemfdCreate(InitName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		n, err = unix.MemfdCreate(InitName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(n), InitName)
	_, err = f.Write(program)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(n), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("copy %s: %w", InitName, err)
	}
	return f, nil
}

// helper is a running ctrsnap-init. Its children are this process's: it forks with CLONE_PARENT.
type helper struct {
	cmd   *exec.Cmd
	conn  *net.UnixConn
	ended chan struct{} // closed when it has ended
}

// startHelper executes a sealed program. It and its children get SIGKILL when the calling thread ends.
func startHelper(program *os.File) (*helper, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "helper"), os.NewFile(uintptr(ends[1]), "helper")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	h := &helper{
		conn:  conn.(*net.UnixConn),
		ended: make(chan struct{}),
		cmd: &exec.Cmd{
			Path: "/proc/self/fd/" + strconv.Itoa(int(fd(program))), Args: []string{InitName}, Env: []string{}, Dir: "/",
			ExtraFiles:  []*os.File{theirs},
			SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
		},
	}
	if err := h.cmd.Start(); err != nil {
		_ = conn.Close() // nobody has used it
		return nil, fmt.Errorf("start %s: %w", InitName, err)
	}
	go func() {
		_ = h.cmd.Wait() // how it has ended is in its state
		close(h.ended)
	}()
	return h, nil
}

// fork has the helper fork a process. done is false if the order has not reached it, so that nothing was done.
func (h *helper) fork(text, files []byte) (a answer, done bool, err error) {
	n, _, err := h.conn.WriteMsgUnix(text, files, nil)
	if err == nil && n < len(text) {
		_, err = h.conn.Write(text[n:])
	}
	if err != nil {
		return a, false, err
	}
	_, err = io.ReadFull(h.conn, memory(&a))
	return a, true, err
}

// end ends the helper, and waits for that. Its children live on.
func (h *helper) end() {
	_ = h.conn.Close()       // which has nothing to write
	_ = h.cmd.Process.Kill() // it may have ended
	<-h.ended
}

// order has the helper run a program in a child that has those pipes, and returns its number: also with an error, if the
// child is there and the program's part for the helper has failed. A helper that has died is replaced: an order that has not
// reached it was not carried out.
func (l *Launcher) order(prog *program, opts forkOptions, pipes []*os.File) (pid int, err error) {
	o := order{flags: opts.flags, address: dataAddress, status: statusFD, goOn: goFD, count: uint32(len(prog.calls))}
	if prog.ours > 0 {
		o.count = uint32(prog.ours)
		o.ours = uint32(len(prog.calls)) - o.count
	}
	if opts.net != nil {
		o.netns = uint32(prog.file(opts.net))
	}
	if opts.pid != nil {
		o.pidns = uint32(prog.file(opts.pid))
	}
	o.calls = dataAddress + uint64(len(prog.data))
	var calls []byte
	for i := range prog.calls {
		calls = append(calls, memory(&prog.calls[i])...)
	}
	o.size = uint32(len(prog.data) + len(calls))
	var numbers []int
	for _, f := range slices.Concat(pipes, prog.files) {
		n := fd(f)
		if n == math.MaxUint32 {
			return 0, fmt.Errorf("%s: %w", f.Name(), os.ErrClosed)
		}
		numbers = append(numbers, int(n))
	}
	if len(numbers) > mostFiles {
		return 0, refuse("more mounts than a message has room for")
	}
	o.files = uint32(len(numbers))
	text, files := slices.Concat(memory(&o), prog.data, calls), unix.UnixRights(numbers...)
	l.mu.Lock()
	defer l.mu.Unlock()
	for again := false; ; again = true {
		if l.helper == nil {
			l.do(func() { l.helper, err = startHelper(l.program) })
			if err != nil {
				return 0, err
			}
		}
		a, done, err := l.helper.fork(text, files)
		switch {
		case err == nil && a.pid == 0:
			return 0, fmt.Errorf("clone: %w", unix.Errno(a.errno))
		case err == nil && a.errno != 0:
			return int(a.pid), prog.fail(report{o.count + a.call, a.errno})
		case err == nil:
			return int(a.pid), nil
		}
		l.helper.end()
		state := l.helper.cmd.ProcessState
		l.helper = nil
		if done || again {
			return 0, fmt.Errorf("%s, which starts containers, has ended (%v): the next start has a new one: %w", InitName, state, err)
		}
	}
}
