package launch

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// program is a list of system calls in the making, with what they point to: see ctrsnap-init.c.
type program struct {
	calls []call
	names []string // what each call does, for errors
	data  []byte   // what the calls point to, from dataAddress on
	files []*os.File
	ours  int // if not 0, the first of those calls that the helper makes for the child
}

// add appends a call and returns it, to be refined at once.
func (p *program) add(name string, nr uintptr, args ...uintptr) *call {
	c := call{nr: uint64(nr)}
	for i, a := range args {
		c.args[i] = uint64(a)
	}
	p.calls = append(p.calls, c)
	p.names = append(p.names, name)
	return &p.calls[len(p.calls)-1]
}

// text returns the address of s with a zero behind it.
func (p *program) text(s string) uintptr { return p.bytes(append([]byte(s), 0)) }

// bytes returns the address of a copy of b; 0 if it is empty.
func (p *program) bytes(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	at := dataAddress + len(p.data)
	p.data = append(p.data, b...)
	p.data = append(p.data, make([]byte, -len(p.data)&7)...) // the next one is aligned
	return uintptr(at)
}

// texts returns the address of a list as execve takes it.
func (p *program) texts(list []string) uintptr {
	var addresses []byte
	for _, s := range list {
		addresses = binary.NativeEndian.AppendUint64(addresses, uint64(p.text(s)))
	}
	return p.bytes(append(addresses, make([]byte, 8)...))
}

// address returns that of a copy of v, in which there are no pointers of ours.
func address[T any](p *program, v *T) uintptr { return p.bytes(memory(v)) }

// file returns the descriptor that f has in the child. It must stay open until the program is forked.
func (p *program) file(f *os.File) uintptr {
	i := slices.Index(p.files, f)
	if i < 0 {
		i = len(p.files)
		p.files = append(p.files, f)
	}
	return uintptr(filesFD + i)
}

// fail returns the error of a report.
func (p *program) fail(r report) error {
	if int(r.call) >= len(p.names) {
		return fmt.Errorf("run program: %w", unix.Errno(r.errno))
	}
	return fmt.Errorf("%s: %w", p.names[r.call], unix.Errno(r.errno))
}

// ignoring makes errors of the call none.
func (c *call) ignoring(errs ...unix.Errno) *call {
	for i, e := range errs {
		c.ignore[i] = int32(e)
	}
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
