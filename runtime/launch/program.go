package launch

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// program is a list of system calls in the making. What the calls point to is
// kept until the child is forked.
type program struct {
	calls []call
	names []string // what each call does, for errors
	keep  []any
	// Calls that get the numbers of the pipes to the launcher, by connect.
	closing, reporting int
	waiting            []int
	// share has the child use the memory of this process instead of a copy.
	share bool
}

// add appends a call and returns it, to be refined at once.
func (p *program) add(name string, nr uintptr, args ...uintptr) *call {
	c := call{nr: nr}
	copy(c.args[:], args)
	p.calls = append(p.calls, c)
	p.names = append(p.names, name)
	return &p.calls[len(p.calls)-1]
}

// text returns the address of s with a zero behind it.
func (p *program) text(s string) uintptr {
	b := append([]byte(s), 0)
	return p.bytes(b)
}

// bytes returns the address of b; 0 if it is empty.
func (p *program) bytes(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	p.keep = append(p.keep, b)
	return uintptr(unsafe.Pointer(&b[0]))
}

// texts returns the address of a list as execve takes it.
func (p *program) texts(list []string) uintptr {
	ptrs := make([]uintptr, len(list)+1)
	for i, s := range list {
		ptrs[i] = p.text(s)
	}
	p.keep = append(p.keep, ptrs)
	return uintptr(unsafe.Pointer(&ptrs[0]))
}

// address returns that of v, which is a part of keep from now on.
func address[T any](p *program, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

// fail returns the error of a report.
func (p *program) fail(r report) error {
	if int(r.call) >= len(p.names) {
		return fmt.Errorf("run program: %w", unix.Errno(r.errno))
	}
	return fmt.Errorf("%s: %w", p.names[r.call], unix.Errno(r.errno))
}

// fork runs the program in a child. The files that it uses must stay open until
// fork returns; what is kept, until the child has ended or runs its own program.
func (p *program) fork(args *cloneArgs, status int) (int, error) {
	how := fork
	if p.share && canSpawn {
		p.shared(args)
		how = forkShared
	}
	pid, errno := how(args, p.calls, uintptr(status))
	runtime.KeepAlive(p)
	if errno != 0 {
		return 0, fmt.Errorf("clone: %w", errno)
	}
	return pid, nil
}

// ignoring makes errors of the call none.
func (c *call) ignoring(errs ...unix.Errno) *call {
	copy(c.ignore[:], errs)
	return c
}

// using puts the saved result in place of arguments.
func (c *call) using(args ...int) *call {
	for _, i := range args {
		c.use |= 1 << i
	}
	return c
}

// saving keeps the result for calls that are using it.
func (c *call) saving() *call {
	c.save = true
	return c
}

// mount appends mount(2).
func (p *program) mount(source, target, kind string, flags uintptr, data string) *call {
	var d uintptr
	if data != "" {
		d = p.text(data)
	}
	return p.add("mount "+target, unix.SYS_MOUNT, p.text(source), p.text(target), p.text(kind), flags, d)
}

// mkdirAll appends what makes a directory and those above it.
func (p *program) mkdirAll(path string) {
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			p.mkdir(path[:i])
		}
	}
}

// mkdir appends mkdirat(2). A filesystem that is read-only says so even where the
// directory exists.
func (p *program) mkdir(path string) {
	p.add("make directory "+path, unix.SYS_MKDIRAT, atCwd, p.text(path), 0o755).ignoring(unix.EEXIST, unix.EROFS)
}

// writeFile appends what writes to a file that exists.
func (p *program) writeFile(path, data string) {
	name := "write " + path
	p.add(name, unix.SYS_OPENAT, atCwd, p.text(path), unix.O_WRONLY|unix.O_CLOEXEC).saving()
	p.add(name, unix.SYS_WRITE, 0, p.bytes([]byte(data)), uintptr(len(data))).using(0)
	p.add(name, unix.SYS_CLOSE, 0).using(0)
}

// prctl appends prctl(2).
func (p *program) prctl(name string, option, a, b uintptr) *call {
	return p.add(name, unix.SYS_PRCTL, option, a, b, 0, 0)
}

// atCwd is AT_FDCWD as an argument.
const atCwd = ^uintptr(99)
