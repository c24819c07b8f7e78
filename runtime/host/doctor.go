package host

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot/storage"
)

// Values of api.Check.Status.
const (
	ok      = "ok"
	warning = "warning"
	failed  = "error"
)

// Check looks at something that clones depend on. Its findings have a name, a status and a detail each.
type Check func(context.Context) []api.Check

// One makes a Check of a function with one finding.
func One(look func(context.Context) api.Check) Check {
	return func(ctx context.Context) []api.Check { return []api.Check{look(ctx)} }
}

// Doctor looks at what clones depend on. Those who ask at the same time share an answer.
func (h *Host) Doctor(ctx context.Context, caller access.Caller) (api.Doctor, error) {
	if err := caller.CheckKnown("check the host"); err != nil {
		return api.Doctor{}, err
	}
	return h.doctor.Do(ctx, "", func(ctx context.Context) (api.Doctor, error) { return h.look(ctx), nil })
}

func (h *Host) look(ctx context.Context) api.Doctor {
	report := api.Doctor{Schema: api.Schema}
	for _, look := range h.opts.Checks {
		report.Checks = append(report.Checks, look(ctx)...)
	}
	return report
}

// Fix does what can be done without harm to anybody, and looks again. What it has mended
// is told beside what is. It is for administrators.
func (h *Host) Fix(ctx context.Context, caller access.Caller) (api.Doctor, error) {
	if err := caller.CheckAdmin("mend"); err != nil {
		return api.Doctor{}, err
	}
	was := map[string]string{}
	for _, c := range h.look(ctx).Checks { // some mend by looking
		was[c.Name] = c.Status
	}
	done := []api.Check{h.mendLeftovers(ctx)}
	for _, mend := range h.opts.Mends {
		done = append(done, mend(ctx)...)
	}
	after := h.look(ctx)
	for i, c := range after.Checks {
		if c.Status == ok && was[c.Name] != "" && was[c.Name] != ok {
			after.Checks[i].Detail += " (mended)"
		}
	}
	after.Checks = append(after.Checks, done...)
	return after, nil
}

// mendLeftovers removes what nobody has.
func (h *Host) mendLeftovers(ctx context.Context) api.Check {
	c := api.Check{Name: "fix leftovers", Status: ok}
	removed := 0
	for _, k := range h.gc(ctx, true).Kinds {
		removed += len(k.Orphans)
		for _, text := range k.Errors {
			c.Status, c.Why = warning, text
		}
	}
	c.Detail = fmt.Sprintf("%d found that nobody has", removed)
	return c
}

// Verified checks something that says what it is and what is wrong with it, with a hint at what to do.
func Verified(name string, what interface {
	fmt.Stringer
	Verify(context.Context) error
}) Check {
	return One(func(ctx context.Context) api.Check {
		err := what.Verify(ctx) // it may change what there is
		c := api.Check{Name: name, Status: ok, Detail: what.String()}
		if err != nil {
			c.Status, c.Why, c.Fix = warning, err.Error(), hintOf(err)
		}
		return c
	})
}

func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// Containerd is what is checked of the containerd that has the layers.
type Containerd interface {
	Version() string
	Address() string
	Embedded() bool // in this process
	SnapshotRoot(context.Context) (string, error)
}

// CheckContainerd tells which one it is.
func CheckContainerd(c Containerd) Check {
	return One(func(context.Context) api.Check {
		if c.Embedded() {
			return api.Check{Name: "containerd", Status: ok, Detail: c.Version() + " in process, socket " + c.Address()}
		}
		return api.Check{
			Name: "containerd", Status: ok, Detail: c.Version() + " of the host at " + c.Address(),
			Why: "it syncs its metadata at each change, which a clone then waits for",
		}
	})
}

// CheckStorage looks at the filesystem that holds the layers: own, or where a containerd of the host keeps them.
func CheckStorage(own *storage.Storage, c Containerd) Check {
	return func(ctx context.Context) (checks []api.Check) {
		layers := own
		if !c.Embedded() {
			root, err := c.SnapshotRoot(ctx)
			if err == nil {
				layers, err = storage.At(root)
			}
			if err != nil {
				return []api.Check{{Name: "storage", Status: failed, Detail: err.Error()}}
			}
		}
		for _, c := range layers.Checks() {
			checks = append(checks, api.Check(c))
		}
		return checks
	}
}

// CheckCgroups tells which version the host has.
func CheckCgroups(context.Context) []api.Check {
	c := api.Check{Name: "cgroups", Status: ok, Detail: "v2"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		c.Detail = "v1"
	}
	return []api.Check{c}
}
