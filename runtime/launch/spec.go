package launch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Restarts is an annotation of containers: a first process that ends with this exit code is started
// again, in the same namespaces, when no other process is left in its container; until then one that was started by another
// process takes its place. The first process of the PID namespace is then a copy of the launcher's helper, which
// passes signals on and ends as the program does otherwise.
const Restarts = "io.ctrsnap.restarts"

// Spec is an OCI specification whose seccomp profile is not decoded: it is the
// largest part, and the same for most containers.
type Spec struct {
	specs.Spec
	Linux *Linux `json:"linux,omitempty"`
}

// Linux is the Linux part of a Spec.
type Linux struct {
	specs.Linux
	Seccomp json.RawMessage `json:"seccomp,omitempty"`
}

// restarts returns the exit code of Restarts, or -1.
func (s *Spec) restarts() int {
	code, err := strconv.ParseUint(s.Annotations[Restarts], 10, 8)
	if err != nil || s.Process.Terminal {
		return -1
	}
	return int(code)
}

// ParseSpec decodes a specification and refuses, with class NotImplemented, what
// the launcher does not do.
func ParseSpec(data []byte) (*Spec, error) {
	s := &Spec{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields() // what this version does not know it cannot do
	if err := d.Decode(s); err != nil {
		return nil, fmt.Errorf("parse specification: %w: %w", errdefs.ErrNotImplemented, err)
	}
	if s.Linux == nil {
		return nil, fmt.Errorf("linux is missing: %w", errdefs.ErrInvalidArgument)
	}
	whole := s.Spec
	whole.Linux = &s.Linux.Linux
	if err := check(&whole); err != nil {
		return nil, err
	}
	return s, nil
}
