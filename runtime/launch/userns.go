package launch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// IDs are the users and groups of a user namespace and which of the host's they are.
// See user_namespaces(7). The zero value is no namespace of its own.
type IDs struct{ Users, Groups []specs.LinuxIDMapping }

// overflow is the number that ids have where they are none. See proc_sys_kernel(5).
const overflow = 65534

// IDs are those of a container.
func (s *Spec) IDs() IDs { return IDs{s.Linux.UIDMappings, s.Linux.GIDMappings} }

// IDs are those of a process's container.
func (p *Process) IDs() IDs { return p.ids }

func (m IDs) none() bool { return len(m.Users) == 0 }

// Host returns the host's user and group of one in the namespace.
func (m IDs) Host(u specs.User) (uid, gid int) {
	return onHost(m.Users, u.UID), onHost(m.Groups, u.GID)
}

func onHost(list []specs.LinuxIDMapping, id uint32) int {
	if len(list) == 0 {
		return int(id)
	}
	if i := find(list, id); i >= 0 {
		return int(list[i].HostID + id - list[i].ContainerID)
	}
	return overflow
}

// find returns the index of the mapping that has an id of the namespace, or -1.
func find(list []specs.LinuxIDMapping, id uint32) int {
	return slices.IndexFunc(list, func(m specs.LinuxIDMapping) bool { return id >= m.ContainerID && id-m.ContainerID < m.Size })
}

// checkIDs wants a root in a user namespace, for it is who builds the container, and the
// user of its process.
func checkIDs(s *specs.Spec) error {
	m := IDs{s.Linux.UIDMappings, s.Linux.GIDMappings}
	own := slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	if !own {
		return first(field{"linux.uidMappings", len(m.Users)+len(m.Groups) > 0})
	}
	var u specs.User
	if s.Process != nil {
		u = s.Process.User
	}
	return first(
		field{"linux.uidMappings: no root", find(m.Users, 0) < 0}, field{"linux.gidMappings: no root", find(m.Groups, 0) < 0},
		field{"linux.uidMappings: not the user of process", find(m.Users, u.UID) < 0},
		field{"linux.gidMappings: not the group of process", find(m.Groups, u.GID) < 0},
	)
}

// adopt ends the calls of a child and appends those that are made for it: what takes the rights of the host.
func (p *program) adopt(m IDs, score *int, limits []rlimit) {
	p.ours = len(p.calls)
	for _, l := range limits {
		p.add("set "+l.name, unix.SYS_PRLIMIT64, 0, uintptr(l.resource), address(p, &l.limit), 0).using(0)
	}
	if score != nil {
		p.writeFile("oom_score_adj", fmt.Sprint(*score))
	}
	for _, f := range []struct {
		name string
		list []specs.LinuxIDMapping
	}{{"uid_map", m.Users}, {"gid_map", m.Groups}} {
		var text strings.Builder
		for _, l := range f.list {
			fmt.Fprintln(&text, l.ContainerID, l.HostID, l.Size)
		}
		p.writeFile(f.name, text.String()) // at once, as the kernel wants it
	}
}

// Namespace makes a user namespace that nobody is in, for idmapped mounts: see
// mount_setattr(2). It lives as long as the file.
func (l *Launcher) Namespace(m IDs) (*os.File, error) {
	var p program
	p.begin()
	p.wait()
	p.wait() // until we have what we want
	p.add("end", unix.SYS_EXIT_GROUP, 0)
	p.adopt(m, nil, nil)
	child, err := l.fork(&p, forkOptions{flags: unix.CLONE_NEWUSER})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	defer child.discard() //nolint:errcheck // of what has done its work
	return os.Open(fmt.Sprintf("/proc/%d/ns/user", child.PID))
}

// becomeRoot appends the wait for the ids, and the change to the namespace's root.
func (b *builder) becomeRoot() {
	b.wait()
	b.keyring() // of the host's root still: any other user may have 200 keys, and all containers share one
	b.add("become root: groups", unix.SYS_SETGROUPS, 0, 0)
	b.add("become root: group", unix.SYS_SETRESGID, 0, 0, 0)
	b.add("become root: user", unix.SYS_SETRESUID, 0, 0, 0)
	b.prctl("die with the shim", unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0) // see identity
}

// openSysfs mounts what /sys shows of a network namespace, attached nowhere: it is the host's,
// so nobody in a user namespace may.
func (l *Launcher) openSysfs(netns *os.File, o mountOptions) (f *os.File, err error) {
	attr := int(o.attributes().Attr_set)
	l.do(func() {
		if err = setNet(netns); err != nil {
			return
		}
		f, err = openFilesystem("sysfs", []string{"source=sysfs"}, attr)
		err = errors.Join(err, setNet(l.net))
	})
	return f, err
}

func setNet(f *os.File) error {
	return os.NewSyscallError("setns", unix.Setns(int(fd(f)), unix.CLONE_NEWNET))
}
