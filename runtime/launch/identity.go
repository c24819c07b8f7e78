package launch

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilityNames are in the order of their numbers. See capabilities(7).
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capSets are sets of capabilities, one bit for each.
type capSets struct{ bounding, effective, permitted, inheritable, ambient uint64 }

// capabilities parses the five sets. A process that may trace others could reach
// the memory of one that joins its container and is still the launcher's.
func capabilities(c *specs.LinuxCapabilities) (s capSets, err error) {
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{c.Bounding, &s.bounding}, {c.Effective, &s.effective}, {c.Permitted, &s.permitted},
		{c.Inheritable, &s.inheritable}, {c.Ambient, &s.ambient},
	} {
		for _, name := range set.names {
			n := capability(name)
			if n < 0 || n == unix.CAP_SYS_PTRACE {
				return s, refuse("process.capabilities: " + name)
			}
			*set.bits |= 1 << n
		}
	}
	return s, nil
}

func capability(name string) int {
	for i, n := range capabilityNames {
		if n == name {
			return i
		}
	}
	return -1
}

// identity appends what makes the child its user, in the order of runc: whatever
// takes privileges is before they go.
func (p *program) identity(proc *specs.Process) error {
	caps, err := capabilities(proc.Capabilities)
	if err != nil {
		return err
	}
	for n := range len(capabilityNames) {
		if caps.bounding&(1<<n) == 0 {
			p.prctl("drop capability "+capabilityNames[n], unix.PR_CAPBSET_DROP, uintptr(n), 0).ignoring(unix.EINVAL)
		}
	}
	p.prctl("keep capabilities", unix.PR_SET_KEEPCAPS, 1, 0)
	groups := proc.User.AdditionalGids
	var list []byte
	for _, g := range groups {
		list = binary.NativeEndian.AppendUint32(list, g)
	}
	p.add("set groups", unix.SYS_SETGROUPS, uintptr(len(groups)), p.bytes(list))
	gid, uid := uintptr(proc.User.GID), uintptr(proc.User.UID)
	p.add("set group", unix.SYS_SETRESGID, gid, gid, gid)
	p.add("set user", unix.SYS_SETRESUID, uid, uid, uid)
	p.insideRoot()
	p.prctl("drop capabilities at exec", unix.PR_SET_KEEPCAPS, 0, 0)
	p.capset(caps)
	p.prctl("clear ambient capabilities", unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0)
	for n := range len(capabilityNames) {
		if caps.ambient&caps.permitted&caps.inheritable&(1<<n) != 0 {
			p.prctl("raise ambient "+capabilityNames[n], unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n))
		}
	}
	// The kernel forgets it with each change of user or capabilities.
	p.prctl("die with the shim", unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	return nil
}

func (p *program) capset(caps capSets) {
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{
			Effective:   uint32(caps.effective >> shift),
			Permitted:   uint32(caps.permitted >> shift),
			Inheritable: uint32(caps.inheritable >> shift),
		}
	}
	p.add("set capabilities", unix.SYS_CAPSET, address(p, header), address(p, data))
}

// chdir appends the change to the working directory.
func (p *program) chdir(cwd string) *call {
	if cwd == "" {
		cwd = "/"
	}
	return p.add("change to directory "+cwd, unix.SYS_CHDIR, p.text(cwd))
}

// insideRoot appends the proof that the working directory is below the root: the
// kernel names one that is not with "(unreachable)" in front.
func (p *program) insideRoot() {
	buf := p.bytes(make([]byte, unix.PathMax))
	p.add("check that the working directory is in the container", unix.SYS_GETCWD, buf, unix.PathMax).inside = uint64(buf)
}

var rlimitNames = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

type rlimit struct {
	name     string
	resource int
	limit    unix.Rlimit
}

func rlimits(list []specs.POSIXRlimit) ([]rlimit, error) {
	limits := make([]rlimit, 0, len(list))
	for _, l := range list {
		resource, ok := rlimitNames[l.Type]
		if !ok {
			return nil, fmt.Errorf("specification: process.rlimits: %q: %w", l.Type, errdefs.ErrInvalidArgument)
		}
		limits = append(limits, rlimit{l.Type, resource, unix.Rlimit{Cur: l.Soft, Max: l.Hard}})
	}
	return limits, nil
}

// rlimits appends the limits of a process.
func (p *program) rlimits(list []specs.POSIXRlimit) error {
	limits, err := rlimits(list)
	p.limit(limits)
	return err
}

func (p *program) limit(limits []rlimit) {
	for _, l := range limits {
		p.add("set "+l.name, unix.SYS_PRLIMIT64, 0, uintptr(l.resource), address(p, &l.limit), 0)
	}
}

// raised returns what makes room for limits that are above ours: that takes the host's root, and
// a process may lower its own.
func raised(list []specs.POSIXRlimit) ([]rlimit, error) {
	limits, err := rlimits(list)
	if err != nil {
		return nil, err
	}
	for i, l := range limits {
		if err := unix.Getrlimit(l.resource, &limits[i].limit); err != nil {
			return nil, fmt.Errorf("get %s: %w", l.name, err)
		}
		limits[i].limit.Max = max(limits[i].limit.Max, l.limit.Max)
	}
	return limits, nil
}
