package config

import (
	"fmt"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Mode is the access mode of a golden, written as "0644".
type Mode uint32

// MarshalText writes octal digits.
func (m Mode) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%04o", uint32(m)), nil }

// UnmarshalText reads them.
func (m *Mode) UnmarshalText(b []byte) error {
	v, err := snapshot.ParseMode(string(b))
	*m = Mode(v)
	return err
}
