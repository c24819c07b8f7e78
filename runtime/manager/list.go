package manager

import (
	"cmp"
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/api"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// find returns the clone of an id, a name, or a unique prefix of an id, among
// those that the caller may know of. Their own names come first.
func (m *Manager) find(caller access.Caller, id string) (*clone, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.clones[id]; c != nil && caller.May(c.rec.OwnerUID) {
		return c, nil
	}
	if c := m.names[nameOf{caller.UID(), id}]; c != nil {
		return c, nil
	}
	var found []*clone
	for _, c := range m.clones {
		if id != "" && (strings.HasPrefix(c.id, id) || c.rec.Name == id && m.names[c.name()] == c) && caller.May(c.rec.OwnerUID) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, snapshot.WithHint(fmt.Errorf("no clone %.64q: %w", id, errdefs.ErrNotFound), "'ctrsnap ls' lists the clones")
	default:
		return nil, snapshot.WithHint(
			fmt.Errorf("%d clones have ids that begin with %q, or that name: %w", len(found), id, errdefs.ErrInvalidArgument),
			"give more of the id")
	}
}

// Get returns a clone with what it uses now, and what its server is set to.
func (m *Manager) Get(ctx context.Context, caller access.Caller, id string) (api.Clone, error) {
	c, err := m.find(caller, id)
	if err != nil {
		return api.Clone{}, err
	}
	seen := m.measure(ctx, c)
	seen.Durability = api.DurabilityOff // its layer is volatile, whatever its server does
	if e, ok := c.engine.(runtime.Settler); ok {
		settings, err := e.Settings(c.golden, seen.Settings)
		if err != nil {
			return api.Clone{}, fmt.Errorf("find settings of clone %s: %w", c.id, err)
		}
		for _, s := range settings {
			seen.ServerSettings = append(seen.ServerSettings, api.ServerSetting(s))
		}
	}
	return seen, nil
}

// List returns the clones that have all the labels, oldest first, of those that the
// caller may know of.
func (m *Manager) List(ctx context.Context, caller access.Caller, labels map[string]string) ([]api.Clone, error) {
	list := m.measureAll(ctx, m.labelled(caller, labels))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list clones: %w", err)
	}
	return list, nil
}

// measureAll measures clones side by side, and returns them oldest first.
func (m *Manager) measureAll(ctx context.Context, clones []*clone) []api.Clone {
	list := make([]api.Clone, len(clones))
	var g errgroup.Group
	g.SetLimit(goruntime.NumCPU())
	for i, c := range clones {
		g.Go(func() error {
			list[i] = m.measure(ctx, c)
			return nil
		})
	}
	_ = g.Wait() // none of them fails
	slices.SortFunc(list, func(a, b api.Clone) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return list
}

func (m *Manager) labelled(caller access.Caller, labels map[string]string) []*clone {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*clone, 0, len(m.clones))
	for _, c := range m.clones {
		if hasLabels(c.rec.Labels, labels) && caller.May(c.rec.OwnerUID) {
			list = append(list, c)
		}
	}
	return list
}

func hasLabels(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// describe returns what is known of a clone without asking anybody.
func (m *Manager) describe(c *clone) api.Clone {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := c.rec.wire()
	if seen.DNSNames = m.named(&c.rec); len(seen.DNSNames) > 0 {
		seen.DNSName = seen.DNSNames[0]
	}
	if c.isDead() {
		seen.State, seen.PID = api.StateDead, 0
	}
	return seen
}

// measure adds disk and memory. A figure that cannot be had (the clone is going
// just now) is 0.
func (m *Manager) measure(ctx context.Context, c *clone) api.Clone {
	seen := m.describe(c)
	if n, err := m.opts.Store.Usage(ctx, c.id); err == nil {
		seen.DiskBytes = n
	}
	if seen.State == api.StateRunning {
		if n, err := c.task.Memory(ctx); err == nil {
			seen.MemoryBytes = n
		}
	}
	return seen
}
