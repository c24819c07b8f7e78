package access

import (
	"fmt"
	"os/user"
	"slices"
	"strconv"
)

// IsMember says whether the caller is in a group of this host by its list of groups, which is looked up each time:
// members come and go. Of a caller whom that does not know it is the group of their process that counts.
func (c Caller) IsMember(group string) (bool, error) {
	if group == "" || !c.Known() {
		return false, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return false, fmt.Errorf("look up group %s: %w", group, err)
	}
	who, err := user.LookupId(strconv.Itoa(c.UID()))
	if err != nil {
		return strconv.Itoa(c.Group()) == g.Gid, nil
	}
	gids, err := who.GroupIds()
	return err == nil && slices.Contains(gids, g.Gid), nil
}
