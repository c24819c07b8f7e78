package snapshot

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Ref names a golden: "shop:3", or "shop" for the current version.
type Ref struct {
	Name    string
	Version int // 0 means the current version
}

// nameRE is the grammar of golden and clone names. It is a subset of DNS
// labels (RFC 1123), so that a name can become a host name, and holds no
// character that means something to a path, a shell or a URL.
var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidateName says whether name can be the name of a golden or a clone.
// The error is of class InvalidArgument and has a hint.
func ValidateName(name string) error {
	if nameRE.MatchString(name) {
		return nil
	}
	return WithHint(
		fmt.Errorf("invalid name %q: %w", name, errdefs.ErrInvalidArgument),
		"use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends")
}

// ParseRef parses "NAME", "NAME:VERSION" and "NAME:current".
func ParseRef(s string) (Ref, error) {
	name, version, found := strings.Cut(s, ":")
	if err := ValidateName(name); err != nil {
		return Ref{}, err
	}
	if !found || version == "current" {
		return Ref{Name: name}, nil
	}
	n, err := strconv.Atoi(version)
	if err != nil || n < 1 || strconv.Itoa(n) != version {
		return Ref{}, WithHint(
			fmt.Errorf("invalid version %q of golden %s: %w", version, name, errdefs.ErrInvalidArgument),
			"a version is a number from 1, or 'current'")
	}
	return Ref{Name: name, Version: n}, nil
}

// String returns "shop:3", or "shop" where the version is open.
func (r Ref) String() string {
	if r.Version == 0 {
		return r.Name
	}
	return r.Name + ":" + strconv.Itoa(r.Version)
}
