package launch

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// openTerminal makes the container's devpts filesystem before there is a
// container, and the first terminal in it.
func (b *builder) openTerminal(s *Stdio) (*os.File, error) {
	i := slices.IndexFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Type == "devpts" })
	if i < 0 {
		return nil, refuse("process.terminal without a devpts")
	}
	o, err := parseOptions(b.spec.Mounts[i].Options)
	if err != nil {
		return nil, err
	}
	pts, err := b.openDevpts(o)
	if err != nil {
		return nil, err
	}
	b.held = append(b.held, pts)
	b.pts = pts
	n, err := unix.Openat(int(fd(pts)), "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	return b.useTerminal(n, b.spec.Process.User, s)
}

// openDevpts mounts a devpts filesystem, attached nowhere. Its owners are given by the
// host's numbers.
func (b *builder) openDevpts(o mountOptions) (*os.File, error) {
	data := []string{"source=devpts"}
	for _, s := range o.data {
		key, value, _ := strings.Cut(s, "=")
		id, err := strconv.ParseUint(value, 10, 32)
		switch {
		case s == "newinstance": // they always are
			continue
		case err == nil && key == "uid":
			s = fmt.Sprintf("uid=%d", onHost(b.ids.Users, uint32(id)))
		case err == nil && key == "gid":
			s = fmt.Sprintf("gid=%d", onHost(b.ids.Groups, uint32(id)))
		}
		data = append(data, s)
	}
	return openFilesystem("devpts", data, int(o.attributes().Attr_set))
}

// joinTerminal makes one more terminal of a running container. What lies at the path may
// be the container's work, so it must be what it is said to be.
func (b *builder) joinTerminal(user specs.User, s *Stdio) (*os.File, error) {
	f, err := b.open("/dev/pts/ptmx", unix.O_PATH)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	var fs unix.Statfs_t
	if err := unix.Fstat(int(fd(f)), &st); err != nil {
		return nil, err
	}
	if err := unix.Fstatfs(int(fd(f)), &fs); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) || fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return nil, refuse("process.terminal: /dev/pts/ptmx of the container is none")
	}
	ptmx, err := b.open("/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	n, err := unix.FcntlInt(fd(ptmx), unix.F_DUPFD_CLOEXEC, 0)
	ptmx.Close()
	if err != nil {
		return nil, err
	}
	return b.useTerminal(n, user, s)
}

// useTerminal makes the other end of a terminal, which is to be the user's, the
// standard streams.
func (b *builder) useTerminal(n int, user specs.User, s *Stdio) (*os.File, error) {
	master := pollable(n, "terminal")
	slave, number, err := openSlave(n)
	if err == nil {
		b.held = append(b.held, slave)
		uid, _ := b.ids.Host(user)
		err = slave.Chown(uid, -1)
	}
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	*s = Stdio{Stdin: slave, Stdout: slave, Stderr: slave, slave: fmt.Sprintf("/dev/pts/%d", number)}
	return master, nil
}

// openSlave opens the other end without a path, which could be one of the host.
func openSlave(master int) (*os.File, int, error) {
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return nil, 0, err
	}
	number, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return nil, 0, err
	}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return nil, 0, errno
	}
	return os.NewFile(n, "terminal"), number, nil
}
