package launch

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime/launch/cgroup"
	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
	"github.com/ctrsnap/ctrsnap/snapshot/foreign"
)

// builder makes the program of a container's first process.
type builder struct {
	program
	launcher *Launcher
	id       string
	spec     *Spec
	ids      IDs
	cgroup   *cgroup.Group
	filter   *seccomp.Filter
	root     *os.File   // the root filesystem, attached nowhere
	pts      *os.File   // the devpts of a container with a terminal
	net      *os.File   // the network namespace to join
	held     []*os.File // open until the child is forked
	flags    uint64     // of clone
}

// build appends all calls, in an order that is the point of it: first what needs the
// host's root, then what builds the new one, then what gives up privileges.
func (b *builder) build(stdio Stdio) error {
	b.begin()
	if err := b.namespaces(); err != nil {
		return err
	}
	b.privileges()
	b.enterRoot(b.root)
	if err := b.mounts(); err != nil {
		return err
	}
	if err := b.terminal(stdio); err != nil {
		return err
	}
	if h := b.spec.Hostname; h != "" {
		b.add("set host name", unix.SYS_SETHOSTNAME, b.bytes([]byte(h)), uintptr(len(h)))
	}
	if d := b.spec.Domainname; d != "" {
		b.add("set domain name", unix.SYS_SETDOMAINNAME, b.bytes([]byte(d)), uintptr(len(d)))
	}
	b.protect()
	if b.ids.none() {
		b.keyring()
	}
	home := func() string { return b.home(b.spec.Process.User.UID) }
	if err := b.process(b.spec.Process, stdio, b.filter, home, true, b.spec.restarts()); err != nil || b.ids.none() {
		return err
	}
	limits, err := raised(b.spec.Process.Rlimits)
	b.adopt(b.ids, b.spec.Process.OOMScoreAdj, limits)
	return err
}

// privileges appends what takes the rights of the host; a child in a user namespace
// waits for the launcher to do it.
func (b *builder) privileges() {
	if !b.ids.none() {
		b.becomeRoot()
		return
	}
	if score := b.spec.Process.OOMScoreAdj; score != nil {
		b.writeFile("/proc/self/oom_score_adj", fmt.Sprint(*score))
	}
}

// namespaces appends what joins the cgroup and the network, and collects the
// flags of clone for the rest.
func (b *builder) namespaces() error {
	for _, n := range b.spec.Linux.Namespaces {
		switch n.Type {
		case specs.PIDNamespace:
			b.flags |= unix.CLONE_NEWPID
		case specs.IPCNamespace:
			b.flags |= unix.CLONE_NEWIPC
		case specs.UTSNamespace:
			b.flags |= unix.CLONE_NEWUTS
		case specs.MountNamespace:
			b.flags |= unix.CLONE_NEWNS
		case specs.UserNamespace:
			b.flags |= unix.CLONE_NEWUSER
		case specs.CgroupNamespace: // once it is in its cgroup, which is to be its root
			b.flags |= unix.CLONE_NEWCGROUP
		case specs.NetworkNamespace:
			if err := b.network(n.Path); err != nil {
				return err
			}
		}
	}
	if err := b.enterCgroup(); err != nil {
		return err
	}
	if b.flags&unix.CLONE_NEWCGROUP != 0 {
		b.add("unshare cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	return nil
}

func (b *builder) enterCgroup() error {
	files, err := b.cgroup.Entrances()
	if err != nil {
		return err
	}
	b.held = append(b.held, files...)
	b.enter(files)
	return nil
}

// enter appends what moves the child to a cgroup.
func (p *program) enter(entrances []*os.File) {
	self := p.bytes([]byte("0"))
	for _, f := range entrances {
		p.add("enter cgroup by "+f.Name(), unix.SYS_WRITE, p.file(f), self, 1)
	}
}

// network joins the namespace at path, or makes one with nothing but a loopback
// interface that is up.
func (b *builder) network(path string) error {
	if path == "" {
		b.flags |= unix.CLONE_NEWNET
		ifreq, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		ifreq.SetUint16(unix.IFF_UP)
		b.add("open socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).saving()
		b.add("set loopback up", unix.SYS_IOCTL, 0, unix.SIOCSIFFLAGS, address(&b.program, ifreq)).using(0)
		b.add("close socket", unix.SYS_CLOSE, 0).using(0)
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	b.held = append(b.held, f)
	b.net = f
	if b.ids.none() { // else it is forked there, for it may not join what is the host's
		b.add("join network namespace", unix.SYS_SETNS, b.file(f), unix.CLONE_NEWNET)
	}
	return nil
}

// devices appends the nodes and links of /dev.
func (b *builder) devices() error {
	b.add("set file mode mask", unix.SYS_UMASK, 0)
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"random", 1, 8}, {"full", 1, 7}, {"tty", 5, 0}, {"zero", 1, 5}, {"urandom", 1, 9}} {
		if b.ids.none() {
			b.add("make device "+d.name, unix.SYS_MKNODAT, atCwd, b.text("/dev/"+d.name), unix.S_IFCHR|0o666,
				uintptr(unix.Mkdev(d.major, d.minor)))
		} else if err := b.device("/dev/"+d.name, unix.Mkdev(d.major, d.minor)); err != nil {
			return err
		}
	}
	b.symlink("pts/ptmx", "/dev/ptmx")
	b.symlink("/proc/self/fd", "/dev/fd")
	for i, name := range []string{"stdin", "stdout", "stderr"} {
		b.symlink(fmt.Sprintf("/proc/self/fd/%d", i), "/dev/"+name)
	}
	if _, err := os.Stat("/proc/kcore"); err == nil {
		b.symlink("/proc/kcore", "/dev/core")
	}
	b.add("set file mode mask", unix.SYS_UMASK, 0o022)
	return nil
}

// device binds one of the host's: in a user namespace nobody may make any.
func (b *builder) device(name string, number uint64) error {
	f, err := openTree(name, mountOptions{flags: unix.MS_BIND})
	if err != nil {
		return err
	}
	b.held = append(b.held, f)
	var st unix.Stat_t
	if err := unix.Fstat(int(fd(f)), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != number {
		return refuse(name + " of the host is not that device")
	}
	b.add("make file "+name, unix.SYS_MKNODAT, atCwd, b.text(name), unix.S_IFREG, 0)
	b.moveMount(f, name)
	return nil
}

// terminal appends the terminals of a container with one: the filesystem was made
// by the launcher, who has its end of the first terminal already.
func (b *builder) terminal(stdio Stdio) error {
	if !b.spec.Process.Terminal {
		return nil
	}
	if stdio.slave == "" {
		return errors.New("no terminal was made")
	}
	b.add("make /dev/console", unix.SYS_MKNODAT, atCwd, b.text("/dev/console"), unix.S_IFREG|0o644, 0).ignoring(unix.EEXIST)
	b.program.mount(stdio.slave, "/dev/console", "", unix.MS_BIND, "")
	return nil
}

// keyring appends a new session keyring, so that the host's is not inherited,
// with the rights that runc gives it.
func (b *builder) keyring() {
	const possessor, userViewReadLink, userSearch = 0x3f000000, 0x130000, 0x80000
	c := b.add("join session keyring", unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, b.text("_ses."+b.id))
	c.ignoring(unix.ENOSYS).branch[0] = 1
	b.add("set rights of keyring", unix.SYS_KEYCTL, unix.KEYCTL_SETPERM, ^uintptr(2), possessor|userViewReadLink|userSearch)
}

// stat and noLink look at a path in the root filesystem before it is one.
func (b *builder) stat(p string) (st unix.Stat_t, err error) {
	f, err := b.open(p, unix.O_PATH)
	if err != nil {
		return st, err
	}
	defer f.Close()
	return st, unix.Fstat(int(fd(f)), &st)
}

func (b *builder) noLink(p string) error {
	var st unix.Stat_t
	err := unix.Fstatat(int(fd(b.root)), strings.TrimPrefix(p, "/"), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return refuse(p + " is a link in the root filesystem")
	}
	return nil // what is not there will be made
}

// follow returns where a path leads whose last part is a link, so that what is
// not there can be made.
func (b *builder) follow(p string) string {
	buf := make([]byte, unix.PathMax)
	for range 8 {
		dir, err := b.open(path.Dir(p), unix.O_PATH)
		if err != nil {
			return p
		}
		n, err := unix.Readlinkat(int(fd(dir)), path.Base(p), buf)
		_ = dir.Close()
		if err != nil {
			return p // no link, or nothing
		}
		to := string(buf[:n])
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(p), to)
		}
		p = path.Clean("/" + to)
	}
	return p
}

// open opens a file of the root filesystem; links lead nowhere else.
func (b *builder) open(p string, flags int) (*os.File, error) {
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NONBLOCK // it may be a fifo
	}
	fd, err := unix.Openat2(int(fd(b.root)), path.Join(".", p), &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// home returns the home directory of a user, as /etc/passwd of the container has it.
func (b *builder) home(uid uint32) string {
	at, err := b.open("/etc/passwd", unix.O_PATH)
	if err != nil {
		return "/"
	}
	defer at.Close()
	f, err := foreign.Reopen(at, os.O_RDONLY)
	if err != nil {
		return "/"
	}
	defer f.Close()
	return homeOf(f, uid)
}

// hasHome says whether an environment has HOME.
func hasHome(env []string) bool {
	return slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, "HOME=") })
}
