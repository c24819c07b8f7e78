package manager

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
)

// isolation is how clones are kept apart from the host that a runner makes, by what it says of it.
func isolation(without error) api.Isolation {
	if without != nil {
		return api.IsolationRunc
	}
	return api.IsolationUsers
}

// isolationOf looks at a process. What cannot be known is taken for the worst.
func isolationOf(pid int) api.Isolation {
	own, err := os.Readlink("/proc/self/ns/user")
	its, perr := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil || perr != nil || own == its {
		return api.IsolationRunc
	}
	return api.IsolationUsers
}

// without says why users of a clone are the host's.
func (r *record) without() error {
	if r.Isolation == api.IsolationUsers {
		return nil
	}
	return errors.New("the clone was made without a user namespace")
}

// CheckIsolation counts the clones whose users are the host's: what such a clone runs, its administrator runs on the
// host.
func (m *Manager) CheckIsolation(context.Context) api.Check {
	c := api.Check{Name: "isolation", Status: "ok", Detail: "each clone has a user namespace"}
	var ids []string
	for _, one := range m.registry.list(access.Daemon, nil) {
		if rec := one.record(); rec.without() != nil {
			ids = append(ids, one.id)
		}
	}
	if n := len(ids); n > 0 {
		c.Status, c.Detail = "warning", fmt.Sprintf("%d of the clones have none (isolation: %s)", n, api.IsolationRunc)
		c.Why = "root there is root here; one of them is " + ids[0]
		c.Fix = "remove them, once clones have user namespaces"
	}
	return c
}
