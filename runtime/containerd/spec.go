package containerd

import (
	"path"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/launch"
)

// maxOpenFiles is the limit of open files of a process: plenty for a database, and
// small enough that programs which close every possible descriptor start fast.
const maxOpenFiles = 65536

// openFiles returns the limit of open files: this process may itself run where
// limits cannot be raised.
func openFiles() uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return maxOpenFiles
	}
	return min(l.Max, maxOpenFiles)
}

// spec returns the OCI runtime specification of a container. The devices of
// /dev are those that the specification asks a runtime for by default.
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md.
func (r *Runner) spec(c runtime.Container) *specs.Spec {
	s := &specs.Spec{
		Version:  specs.Version,
		Root:     &specs.Root{Path: "rootfs"},
		Hostname: c.Hostname,
		Process:  process(c.Process),
		Mounts:   append(standardMounts(), c.Mounts...),
		Linux: &specs.Linux{
			Namespaces:    linuxNamespaces(c.NetNS, r.cgroup.unified),
			CgroupsPath:   path.Join(r.opts.CgroupPath, c.ID),
			Resources:     resources(c.Limits),
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
		},
	}
	if c.Restarts {
		s.Annotations = map[string]string{launch.Restarts: strconv.Itoa(c.Process.StopCode)}
	}
	s.Linux.Seccomp = r.profile(s)
	return s
}

// cpuPeriod is what a limit of CPU time is counted over, in microseconds.
const cpuPeriod = 100000

// resources returns limits as the specification has them.
func resources(l runtime.Limits) *specs.LinuxResources {
	r := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	if l.Memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &l.Memory}
	}
	if l.CPUs > 0 {
		period, quota := uint64(cpuPeriod), int64(l.CPUs*cpuPeriod)
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	if l.Pids > 0 {
		r.Pids = &specs.LinuxPids{Limit: &l.Pids}
	}
	return r
}

// profile is containerd's default for s, which depends on capabilities only. It is one
// for all containers that have the same, and not to be changed.
func (r *Runner) profile(s *specs.Spec) *specs.LinuxSeccomp {
	key := strings.Join(s.Process.Capabilities.Bounding, " ")
	p, ok := r.profiles.Load(key)
	if !ok {
		p, _ = r.profiles.LoadOrStore(key, seccomp.DefaultProfile(s))
	}
	return p.(*specs.LinuxSeccomp)
}

// process returns what the specification says about a process, a container's
// first or one that joins it later.
func process(p runtime.Process) *specs.Process {
	cwd := p.Cwd
	if cwd == "" {
		cwd = "/"
	}
	files := openFiles()
	return &specs.Process{
		Args:            p.Args,
		Env:             p.Env,
		Cwd:             cwd,
		Terminal:        p.Terminal,
		User:            specs.User{UID: p.UID, GID: p.GID},
		NoNewPrivileges: true,
		Capabilities:    capabilities(p.UID),
		Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files, Soft: files}},
	}
}

// capabilities returns none for an ordinary user and containerd's default set for root, without that to make devices:
// one in a container's /dev could be opened by a user of the host who is handed that directory. It never returns nil: runc would leave its own capabilities then.
func capabilities(uid uint32) *specs.LinuxCapabilities {
	if uid != 0 {
		return &specs.LinuxCapabilities{}
	}
	caps := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	return &specs.LinuxCapabilities{Bounding: caps, Permitted: caps, Effective: caps}
}

// linuxNamespaces returns the namespaces of a container. It gets a cgroup
// namespace only where the host has the unified hierarchy, as runc and
// containerd hold it.
func linuxNamespaces(netns string, unified bool) []specs.LinuxNamespace {
	ns := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
	}
	if unified {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	if netns != runtime.HostNetwork {
		ns = append(ns, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns})
	}
	return ns
}

// standardMounts returns the mounts of every container. /dev/shm has no size of
// its own (tmpfs then takes half of the memory): parallel queries share memory
// there, and the usual 64 MiB are too small for them.
func standardMounts() []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
	}
}

// maskedPaths are files that tell about the host or reach its hardware.
func maskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
}

// readonlyPaths are files by which root would change the host.
func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
