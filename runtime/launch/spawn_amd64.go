package launch

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// canSpawn says that there is a spawn for this architecture.
const canSpawn = true

// spawn is fork with the memory shared: no page of this process is copied, by the
// kernel's clone or by a write of either after it. The child has the stack of args and runs
// nothing but run. Its signals are blocked until the program says otherwise.
//
//go:noescape
func spawn(args *cloneArgs, program []call, status uintptr) (pid int, errno uintptr)

// spawnStack is plenty for run: it calls nothing but the kernel.
const spawnStack = 16 << 10

// shared prepares args for a child that shares this process's memory.
func (p *program) shared(args *cloneArgs) {
	stack := make([]byte, spawnStack)
	args.stack = uint64(p.bytes(stack))
	args.stackSize = spawnStack
	args.flags |= unix.CLONE_VM | unix.CLONE_CLEAR_SIGHAND
}

// forkShared is like fork.
func forkShared(args *cloneArgs, calls []call, status uintptr) (int, unix.Errno) {
	beforeFork()
	pid, errno := spawn(args, calls, status)
	afterFork()
	return pid, unix.Errno(errno)
}

var _ = [1]int{}[unsafe.Sizeof(cloneArgs{})-88] // as spawn says
