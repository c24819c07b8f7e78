package launch

import (
	"bufio"
	"io"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// begin appends what every child does first.
func (p *program) begin() {
	const sigsetSize = 8
	p.add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, p.bytes(make([]byte, sigsetSize)), 0, sigsetSize)
	p.prctl("die with the shim", unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	p.add("start session", unix.SYS_SETSID)
}

// process appends what a container's first process and one that joins it have in
// common, up to execve. With gate the child reports that it is ready and waits, unless keep is
// negative it stays, and the program is its child's, with keep the exit code of an end in order.
func (p *program) process(proc *specs.Process, stdio Stdio, filter *seccomp.Filter, home func() string, gate bool, keep int) error {
	p.stdio(proc, stdio)
	if err := p.rlimits(proc.Rlimits); err != nil {
		return err
	}
	umask := uintptr(0o022)
	if u := proc.User.Umask; u != nil {
		umask = uintptr(*u)
	}
	p.add("set file mode mask", unix.SYS_UMASK, umask)
	if proc.NoNewPrivileges {
		p.prctl("set no_new_privs", unix.PR_SET_NO_NEW_PRIVS, 1, 0)
	} else {
		p.seccomp(filter) // which takes privileges
	}
	// All that could lead out of the container is closed before a path of the
	// container is followed.
	p.closeFiles()
	p.chdir(proc.Cwd)
	if err := p.identity(proc); err != nil {
		return err
	}
	if gate {
		r := &report{call: ready}
		p.add("report", unix.SYS_WRITE, statusFD, address(p, r), unsafe.Sizeof(*r))
		p.wait()
	}
	if keep >= 0 {
		p.add("fork", keepFirst, uintptr(keep))
	}
	if proc.NoNewPrivileges {
		p.seccomp(filter)
	}
	env := proc.Env
	if !hasHome(env) {
		env = append(env[:len(env):len(env)], "HOME="+home())
	}
	p.exec(proc.Args, env)
	return nil
}

// wait appends the wait for the launcher to let the child go on.
func (p *program) wait() {
	p.add("wait for start", unix.SYS_READ, gateFD, p.bytes(make([]byte, 1)), 1).some = true
}

// closeFiles appends what closes all but the standard streams and the pipes to the launcher.
func (p *program) closeFiles() {
	p.add("close files", unix.SYS_CLOSE_RANGE, 3, statusFD-1)
	p.add("close files", unix.SYS_CLOSE_RANGE, filesFD, math.MaxUint32)
}

// stdio appends the standard streams, which are a terminal's if there is one.
func (p *program) stdio(proc *specs.Process, s Stdio) {
	for i, f := range []*os.File{s.Stdin, s.Stdout, s.Stderr} {
		if f == nil { // not the host's
			const name = "open /dev/null"
			p.add(name, unix.SYS_OPENAT, atCwd, p.text(os.DevNull), unix.O_RDWR|unix.O_CLOEXEC).saving()
			p.add(name, unix.SYS_DUP3, 0, uintptr(i), 0).using(0)
			continue
		}
		p.add("set standard streams", unix.SYS_DUP3, p.file(f), uintptr(i), 0)
	}
	if proc.Terminal {
		p.add("set controlling terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
}

// fd returns the descriptor of f and leaves it as it is.
func fd(f *os.File) (n uintptr) {
	c, err := f.SyscallConn()
	if err == nil {
		err = c.Control(func(fd uintptr) { n = fd })
	}
	if err != nil {
		return math.MaxUint32 // no file, which the child will report
	}
	return n
}

func (p *program) seccomp(f *seccomp.Filter) {
	if f == nil {
		return
	}
	filter := unsafe.Slice((*byte)(unsafe.Pointer(&f.Program[0])), len(f.Program)*int(unsafe.Sizeof(f.Program[0])))
	prog := &struct{ length, filter uint64 }{uint64(len(f.Program)), uint64(p.bytes(filter))} // struct sock_fprog: its length has 16 bits
	p.add("load seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags), address(p, prog))
}

// exec appends execve(2) of the first program that is found, as execvp(3) does.
func (p *program) exec(args, env []string) {
	argv, envp := p.texts(args), p.texts(env)
	name := "exec " + args[0]
	if strings.Contains(args[0], "/") {
		p.add(name, unix.SYS_EXECVE, p.text(args[0]), argv, envp)
		return
	}
	for _, dir := range searchPath(env) {
		p.add(name, unix.SYS_EXECVE, p.text(path.Join(dir, args[0])), argv, envp).ignoring(unix.ENOENT, unix.ENOTDIR)
	}
	// Nothing was found: this fails with that.
	p.add(name+": executable file not found in $PATH", unix.SYS_EXECVE, p.text("/proc/self/fd/-1"), argv, envp)
}

// searchPath returns the directories of PATH.
func searchPath(env []string) []string {
	list := ""
	for _, s := range env {
		if v, ok := strings.CutPrefix(s, "PATH="); ok {
			list = v
		}
	}
	return strings.Split(list, ":")
}

// homeOf returns the home directory of a user in a file like /etc/passwd.
func homeOf(passwd io.Reader, uid uint32) string {
	const most = 1 << 20 // it is the container's, so it may be anything
	s := bufio.NewScanner(io.LimitReader(passwd, most))
	for s.Scan() {
		f := strings.Split(s.Text(), ":")
		if len(f) < 6 || f[5] == "" {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && uint32(n) == uid {
			return f[5]
		}
	}
	return "/"
}
