package launch

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

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
