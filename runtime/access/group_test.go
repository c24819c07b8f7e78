package access

import (
	"os/user"
	"strconv"
	"testing"
)

// TestIsMember goes by the host's list of groups, and by the process only of those whom the host does not know.
func TestIsMember(t *testing.T) {
	me, err := user.LookupId("0")
	if err != nil {
		t.Skip("this host does not know root")
	}
	own, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Skip("root's group has no name")
	}
	other, err := user.LookupGroup("daemon")
	if err != nil {
		t.Skip("there is no group daemon")
	}
	gid, _ := strconv.Atoi(other.Gid)
	const stranger = 61001 // of no user
	for _, tt := range []struct {
		caller Caller
		group  string
		want   bool
	}{
		{User("root", 0, gid), own.Name, true},
		{User("root", 0, gid), other.Name, false}, // whatever its process is in
		{User("", stranger, gid), other.Name, true},
		{User("", stranger, gid), own.Name, false},
		{User("", stranger, stranger, gid), other.Name, false},
		{User("root", 0), "", false},
		{Caller{}, own.Name, false},
	} {
		if got, err := tt.caller.IsMember(tt.group); err != nil || got != tt.want {
			t.Errorf("%d in %q: %t, %v", tt.caller.UID(), tt.group, got, err)
		}
	}
	if _, err := User("root", 0).IsMember("no-such-group"); err == nil {
		t.Error("a group that does not exist has no error")
	}
}
