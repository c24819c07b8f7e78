// Package seccomp compiles the seccomp profile of an OCI specification into the
// BPF program that the kernel takes, with the results of runc and libseccomp:
// the same calls are allowed, and the others get the same error.
//
// See https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config-linux.md#seccomp
// and https://docs.kernel.org/userspace-api/seccomp_filter.html.
package seccomp

//go:generate go run generate.go

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Results of a filter. See include/uapi/linux/seccomp.h.
const (
	retKillThread  = 0x00000000
	retKillProcess = 0x80000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000
	retData        = 0x0000ffff
)

// maxInstructions is the kernel's limit, BPF_MAXINSNS.
const maxInstructions = 4096

// Filter is a compiled profile. It is not changed once made.
type Filter struct {
	Program []unix.SockFilter
	Flags   uint // of seccomp(2)
}

// arch is an architecture with its table of calls.
type arch struct {
	audit uint32
	calls string // "name number\n"
	name  string // in profiles; "" for the native one, which is always meant
	wide  bool   // arguments have 64 bits
}

// Parse compiles a profile in the JSON of a specification.
func Parse(data []byte) (*Filter, error) {
	p := &specs.LinuxSeccomp{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("parse linux.seccomp: %w: %w", errdefs.ErrNotImplemented, err)
	}
	return Compile(p)
}

// Compile returns the filter of a profile; nil for a nil one. What it cannot
// express is of class NotImplemented.
func Compile(p *specs.LinuxSeccomp) (*Filter, error) {
	if p == nil {
		return nil, nil
	}
	if p.ListenerPath != "" || p.ListenerMetadata != "" {
		return nil, fmt.Errorf("linux.seccomp.listenerPath: %w", errdefs.ErrNotImplemented)
	}
	def, err := result(p.DefaultAction, p.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("linux.seccomp.defaultAction: %w", err)
	}
	flags, err := flags(p.Flags)
	if err != nil {
		return nil, err
	}
	code := []unix.SockFilter{load(offArch)}
	for _, a := range arches {
		if a.name != "" && !slices.Contains(p.Architectures, specs.Arch(a.name)) {
			continue
		}
		section, err := a.compile(p, def)
		if err != nil {
			return nil, err
		}
		code = append(code, jump(opJEQ, a.audit, 1, 0), skip(len(section)))
		code = append(code, section...)
	}
	code = append(code, ret(retKillThread))
	if len(code) > maxInstructions {
		return nil, fmt.Errorf("linux.seccomp: %d instructions are too many: %w", len(code), errdefs.ErrNotImplemented)
	}
	return &Filter{Program: code, Flags: flags}, nil
}

// result returns what a filter returns for an action.
func result(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	switch a {
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActErrno:
		if errno == nil {
			return retErrno | uint32(unix.EPERM), nil
		}
		return retErrno | uint32(*errno)&retData, nil
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActLog:
		return retLog, nil
	default:
		return 0, fmt.Errorf("action %s: %w", a, errdefs.ErrNotImplemented)
	}
}

// flags returns those of seccomp(2). Without any given, runc lets programs keep
// speculative store bypass.
func flags(list []specs.LinuxSeccompFlag) (flags uint, err error) {
	if list == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for _, f := range list {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC": // one thread only is there when it is loaded
		default:
			return 0, fmt.Errorf("linux.seccomp.flags: %s: %w", f, errdefs.ErrNotImplemented)
		}
	}
	return flags, nil
}

// numbers parses the table of an architecture.
func (a arch) numbers() (map[string]uint32, error) {
	m := map[string]uint32{}
	for line := range strings.Lines(a.calls) {
		var name string
		var n uint32
		if _, err := fmt.Sscan(line, &name, &n); err != nil {
			return nil, fmt.Errorf("parse table of system calls: %w", err)
		}
		m[name] = n
	}
	return m, nil
}
