// Package access says who wants something done, and whether they may. It lies below all that acts
// for somebody: every verb takes its [Caller] as a parameter, and asks here.
package access

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// Caller is who wants something done. The zero Caller is nobody: they own nothing, are in no
// group, and may do nothing.
type Caller struct {
	Name   string // of the user, or their number; for people and logs
	PID    int    // of the process that connected; 0 if it is not known here
	Remote string // address of one who came over the network, else ""

	id     int   // the user's number + 1
	groups []int // the primary one first
	admin  bool
}

// Daemon is the caller of what the daemon does by itself.
var Daemon = User("", 0, 0)

// User returns the caller that is a user of this host, in these groups, the primary one
// first. Root is an administrator. A number below 0 is nobody's.
func User(name string, uid int, groups ...int) Caller {
	if uid < 0 {
		return Caller{}
	}
	return Caller{Name: name, id: uid + 1, groups: groups, admin: uid == 0}
}

// AsAdmin returns the same caller as an administrator, who may do what root may with clones
// and goldens. Nobody stays nobody.
func (c Caller) AsAdmin() Caller {
	c.admin = c.Known()
	return c
}

// Known says whether the caller is anybody.
func (c Caller) Known() bool { return c.id > 0 }

// UID returns the user's number, -1 of nobody.
func (c Caller) UID() int { return c.id - 1 }

// Group returns the primary group, or [snapshot.NoGroup].
func (c Caller) Group() int {
	if len(c.groups) == 0 {
		return snapshot.NoGroup
	}
	return c.groups[0]
}

// Groups returns the groups that the caller is in, the primary one first.
func (c Caller) Groups() []int { return slices.Clone(c.groups) }

// In says whether the caller is in a group.
func (c Caller) In(gid int) bool { return gid >= 0 && slices.Contains(c.groups, gid) }

// IsAdmin says whether the caller may do what root may with clones and goldens.
func (c Caller) IsAdmin() bool { return c.admin }

// IsRoot says whether the caller is root, or the daemon itself: not every administrator is.
func (c Caller) IsRoot() bool { return c.UID() == 0 }

// May says whether the caller may do with what is uid's as uid may.
func (c Caller) May(uid int) bool { return c.admin || c.Known() && c.UID() == uid }

// MayRead says whether the caller may see and clone a golden.
func (c Caller) MayRead(g snapshot.Golden) bool { return c.allowed(g.Access, snapshot.AccessRead) }

// MaySee is MayRead for what is known of a golden by its access alone.
func (c Caller) MaySee(a snapshot.Access) bool { return c.allowed(a, snapshot.AccessRead) }

// Trusts says whether the caller may take what a golden holds for what they asked to be built themselves: nobody built
// it but they, root, whom these let, or a member of a group that the caller is in, too, and that the administrator
// trusts. The owner of a golden can only give it a group of their own. trusted is that group; 0 is none.
func (c Caller) Trusts(a snapshot.Access, trusted int) bool {
	if !c.Known() {
		return false
	}
	if a.Owner == c.UID() || a.Owner == 0 {
		return true
	}
	return trusted > 0 && a.Group == trusted && c.In(trusted) && a.Mode&snapshot.AccessWrite == 0
}

func (c Caller) allowed(a snapshot.Access, bit uint32) bool {
	return c.admin || c.Known() && a.Allows(c.UID(), c.In, bit)
}

// Readable returns a golden that a look for ref has found, or the error. A golden that the caller
// may not read is not there: NotFound.
func (c Caller) Readable(ref snapshot.Ref, g snapshot.Golden, err error) (snapshot.Golden, error) {
	if err == nil && !c.MayRead(g) {
		return snapshot.Golden{}, snapshot.NoGolden(ref)
	}
	return g, err
}

// CheckWrite says why the caller may not change what a golden's name means: NotFound
// if they may not even know of it, else PermissionDenied.
func (c Caller) CheckWrite(g snapshot.Golden) error {
	switch {
	case c.allowed(g.Access, snapshot.AccessWrite):
		return nil
	case !c.MayRead(g):
		return snapshot.NoGolden(g.Ref())
	}
	return snapshot.WithHint(
		fmt.Errorf("golden %s is somebody else's: %w", g.Name, errdefs.ErrPermissionDenied),
		"its owner or root gives you the right: ctrsnap golden access "+g.Name+" --mode 0664")
}

// CheckAdmin refuses what only administrators may do: PermissionDenied.
func (c Caller) CheckAdmin(doing string) error {
	if c.admin {
		return nil
	}
	return snapshot.WithHint(fmt.Errorf("%s: only administrators may: %w", doing, errdefs.ErrPermissionDenied),
		"run as root, or as a member of api.admin_group")
}

// CheckIsolated refuses what would run where users of a container are this host's, to all but administrators:
// PermissionDenied. without is why they are; nil if they are not.
func (c Caller) CheckIsolated(doing string, without error) error {
	if without == nil || c.admin {
		return nil
	}
	return snapshot.WithHint(
		fmt.Errorf("%s: only administrators may where users of containers are this host's: %v: %w", doing, without, errdefs.ErrPermissionDenied), //nolint:errorlint // its class does not count
		"'ctrsnap doctor' says what it takes that they are not")
}

// CheckKnown refuses nobody: PermissionDenied.
func (c Caller) CheckKnown(doing string) error {
	if c.Known() {
		return nil
	}
	return fmt.Errorf("%s: the caller is not known: %w", doing, errdefs.ErrPermissionDenied)
}
