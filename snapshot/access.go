package snapshot

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Access says who may do what with the goldens of a name: the owner, his group and
// others, each by bits as files have them. To read is to see and to clone; to write is to
// build further versions, promote, roll back and remove. It belongs to the
// name, not to a version.
type Access struct {
	Owner, Group int    // numbers of this host's
	Mode         uint32 // 0o666 at most: nothing is executed
	Protected    bool   // no version is pruned
}

// Bits of one of the three in a mode.
const (
	AccessRead  = 4
	AccessWrite = 2
)

// NoGroup is the group of what nobody owns as a member of one: no user is in it.
const NoGroup = -1

// DefaultAccess is of goldens that nobody has said anything of.
var DefaultAccess = Access{Mode: 0o644}

// Allows says whether a user has one of the bits. Who is the owner has the owner's bits
// only, and who is in the group the group's, as in path_resolution(7).
func (a Access) Allows(uid int, in func(gid int) bool, bit uint32) bool {
	switch {
	case uid == a.Owner:
		return a.Mode>>6&bit != 0
	case in(a.Group):
		return a.Mode>>3&bit != 0
	}
	return a.Mode&bit != 0
}

// protected ends the text of an access by which no version is pruned. A release that does not know it takes the golden
// for root's alone.
const protected = ":protected"

// String returns the form that ParseAccess reads, "1000:1000:0644" or "1000:1000:0644:protected".
func (a Access) String() string {
	s := fmt.Sprintf("%d:%d:%04o", a.Owner, a.Group, a.Mode)
	if a.Protected {
		s += protected
	}
	return s
}

// ParseAccess reads what String has written.
func ParseAccess(s string) (Access, error) {
	text, isProtected := strings.CutSuffix(s, protected)
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return Access{}, fmt.Errorf("invalid access %.64q: %w", s, errdefs.ErrInvalidArgument)
	}
	owner, err := strconv.Atoi(parts[0])
	if err != nil {
		return Access{}, fmt.Errorf("invalid access %.64q: %w", s, errdefs.ErrInvalidArgument)
	}
	group, err := strconv.Atoi(parts[1])
	if err != nil {
		return Access{}, fmt.Errorf("invalid access %.64q: %w", s, errdefs.ErrInvalidArgument)
	}
	mode, err := ParseMode(parts[2])
	return Access{owner, group, mode, isProtected}, err
}

// ParseMode reads a mode, as in "0640".
func ParseMode(s string) (uint32, error) {
	m, err := strconv.ParseUint(s, 8, 32)
	if err != nil || m&^0o666 != 0 || m>>6&AccessRead == 0 {
		return 0, WithHint(fmt.Errorf("invalid mode %.64q: %w", s, errdefs.ErrInvalidArgument),
			"use octal digits as for files, without x, as in 0640: r is to see and clone, w to build, promote and remove; the owner keeps r")
	}
	return uint32(m), nil
}

// NoGolden is the error for a golden that is not there, or not for whoever asks.
func NoGolden(ref Ref) error {
	return WithHint(fmt.Errorf("golden %s: %w", ref, errdefs.ErrNotFound), GoldenHint)
}

// GoldenHint tells people what to do about a golden that is not there.
const GoldenHint = "`ctrsnap golden ls` shows which goldens there are"
