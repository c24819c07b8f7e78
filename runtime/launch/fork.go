package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime exports these to whoever forks without os/exec: signals are blocked
// around the fork and have their default actions in the child.
//
//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneArgs is struct clone_args. See clone(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// call is one system call of a program, and where to go on. The zero value of
// each field but nr and args does what is usual: fail on an error, else go on.
type call struct {
	nr     uintptr
	args   [6]uintptr
	use    uint8         // bits: arguments that are the saved result
	save   bool          // keep the result
	some   bool          // a result of 0 is an error: the other end is gone
	inside *byte         // must be '/' afterwards
	skip   int           // calls to leave out after a success
	ignore [3]unix.Errno // errors that are none
	branch [3]int        // calls to leave out after each of them
}

// report is what a child writes to its status pipe: its progress, or the call
// that failed.
type report struct {
	call  uint32
	errno uint32
}

// ready as the call of a report says that all is set up.
const ready = ^uint32(0)

// fork makes a child that runs a program of system calls. The child has a copy
// of this process's memory and one thread; it runs nothing but what is in this
// file: no allocation, no growth of the stack, no scheduler.
//
//go:noinline
//go:norace
//go:nosplit
func fork(args *cloneArgs, program []call, status uintptr) (pid int, errno unix.Errno) {
	beforeFork()
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if errno != 0 || r != 0 {
		afterFork()
		return int(r), errno
	}
	afterForkInChild()
	run(program, status)
	return 0, 0
}

// run executes a program and does not return: its last call is an execve.
//
//go:norace
//go:nosplit
func run(program []call, status uintptr) {
	var saved uintptr
	failed := report{errno: uint32(unix.ENOEXEC)}
	for i := 0; i < len(program); i++ {
		c := &program[i]
		if c.use != 0 {
			for j := range c.args {
				if c.use&(1<<j) != 0 {
					c.args[j] = saved
				}
			}
		}
		r, _, errno := syscall.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if c.save {
			saved = r
		}
		if errno == 0 && c.some && r == 0 {
			errno = unix.EPIPE
		}
		if errno == 0 && c.inside != nil && *c.inside != '/' {
			errno = unix.ENOENT
		}
		if errno == 0 {
			i += c.skip
			continue
		}
		found := false
		for j := range c.ignore {
			if c.ignore[j] == errno {
				i += c.branch[j]
				found = true
				break
			}
		}
		if !found {
			failed = report{uint32(i), uint32(errno)}
			break
		}
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, status, uintptr(unsafe.Pointer(&failed)), unsafe.Sizeof(failed))
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
