package launch

import (
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/ctrsnap/ctrsnap/runtime/launch/seccomp"
)

// Checker is Check for many specifications with few seccomp profiles. It knows a
// profile again by its address, so profiles are not to be changed. The zero Checker is
// ready; it is safe for concurrent use.
type Checker struct {
	profiles sync.Map // *specs.LinuxSeccomp → *error
}

// Check is like the function.
func (c *Checker) Check(s *specs.Spec) error {
	if s.Linux == nil {
		return refuse("linux is missing")
	}
	if err := check(s); err != nil {
		return err
	}
	if s.Linux.Seccomp == nil {
		return nil
	}
	known, ok := c.profiles.Load(s.Linux.Seccomp)
	if !ok {
		_, err := seccomp.Compile(s.Linux.Seccomp)
		known, _ = c.profiles.LoadOrStore(s.Linux.Seccomp, &err)
	}
	return *known.(*error)
}

// Check says whether the launcher does all that a specification asks for. If not,
// the error is of class NotImplemented and names the field; the container is one
// for runc. It reads nothing but s.
func Check(s *specs.Spec) error { return new(Checker).Check(s) }

// check is Check without the seccomp profile.
func check(s *specs.Spec) error {
	for _, c := range []func(*specs.Spec) error{checkTop, checkLinux, checkNamespaces, checkIDs, checkMounts, checkResources} {
		if err := c(s); err != nil {
			return err
		}
	}
	return checkProcess("process", s.Process)
}

func refuse(field string) error {
	return fmt.Errorf("specification: %s: %w", field, errdefs.ErrNotImplemented)
}

// first returns the refusal of the first field that is set.
func first(fields ...field) error {
	for _, f := range fields {
		if f.set {
			return refuse(f.name)
		}
	}
	return nil
}

type field struct {
	name string
	set  bool
}

func checkTop(s *specs.Spec) error {
	return first(
		field{"hooks", s.Hooks != nil},
		field{"solaris", s.Solaris != nil}, field{"windows", s.Windows != nil}, field{"vm", s.VM != nil},
		field{"zos", s.ZOS != nil}, field{"freebsd", s.FreeBSD != nil},
		field{"root", s.Root == nil}, field{"process", s.Process == nil},
	)
}

func checkLinux(s *specs.Spec) error {
	l := s.Linux
	return first(
		field{"linux.sysctl", len(l.Sysctl) > 0},
		field{"linux.devices", len(l.Devices) > 0},
		field{"linux.netDevices", len(l.NetDevices) > 0},
		field{"linux.rootfsPropagation", l.RootfsPropagation != "" && l.RootfsPropagation != "private" && l.RootfsPropagation != "rprivate"},
		field{"linux.mountLabel", l.MountLabel != ""},
		field{"linux.intelRdt", l.IntelRdt != nil},
		field{"linux.memoryPolicy", l.MemoryPolicy != nil},
		field{"linux.personality", l.Personality != nil},
		field{"linux.timeOffsets", len(l.TimeOffsets) > 0},
		field{"linux.cgroupsPath", !path.IsAbs(l.CgroupsPath) || path.Clean(l.CgroupsPath) != l.CgroupsPath || l.CgroupsPath == "/"},
	)
}

// checkNamespaces wants those namespaces that make a container one. Only the
// network may be shared.
func checkNamespaces(s *specs.Spec) error {
	var have []specs.LinuxNamespaceType
	for _, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace, specs.UserNamespace:
			if n.Path != "" {
				return refuse("linux.namespaces: path of " + string(n.Type))
			}
		case specs.NetworkNamespace:
		default:
			return refuse("linux.namespaces: " + string(n.Type))
		}
		if slices.Contains(have, n.Type) {
			return refuse("linux.namespaces: " + string(n.Type) + " twice")
		}
		have = append(have, n.Type)
	}
	for _, t := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace} {
		if !slices.Contains(have, t) {
			return refuse("linux.namespaces: no " + string(t))
		}
	}
	return nil
}

func checkResources(s *specs.Spec) error {
	r := s.Linux.Resources
	if r == nil {
		return nil
	}
	for i, d := range r.Devices { // what is denied at first is denied anyway
		if i > 0 || d.Allow || d.Type != "" && d.Type != "a" || d.Major != nil || d.Minor != nil {
			return refuse("linux.resources.devices")
		}
	}
	return first(
		field{"linux.resources.rdma", len(r.Rdma) > 0},
		field{"linux.resources.network", r.Network != nil},
		field{"linux.resources.unified", len(r.Unified) > 0},
		field{"linux.resources.hugepageLimits", len(r.HugepageLimits) > 0},
		field{"linux.resources.blockIO", r.BlockIO != nil},
	)
}

// checkProcess checks a container's first process, or one that joins it.
func checkProcess(name string, p *specs.Process) error {
	if p == nil || len(p.Args) == 0 || p.Args[0] == "" {
		return fmt.Errorf("specification: %s.args is empty: %w", name, errdefs.ErrInvalidArgument)
	}
	err := first(
		field{name + ".apparmorProfile", p.ApparmorProfile != ""},
		field{name + ".selinuxLabel", p.SelinuxLabel != ""},
		field{name + ".scheduler", p.Scheduler != nil},
		field{name + ".ioPriority", p.IOPriority != nil},
		field{name + ".execCPUAffinity", p.ExecCPUAffinity != nil},
		field{name + ".user.username", p.User.Username != ""},
		field{name + ".capabilities is missing", p.Capabilities == nil},
		field{name + ".cwd", p.Cwd != "" && !path.IsAbs(p.Cwd)},
	)
	if err != nil {
		return err
	}
	if _, err := capabilities(p.Capabilities); err != nil {
		return err
	}
	_, err = rlimits(p.Rlimits)
	return err
}
