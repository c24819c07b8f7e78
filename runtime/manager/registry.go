package manager

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/network/dns"
	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/runtime/lease"
	"github.com/ctrsnap/ctrsnap/runtime/quota"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// registry has the clones that are handed out, by id and by name, and keeps the records of all. Those it has count in
// their owner's quota, and live by the leases' book.
type registry struct {
	runner runtime.Runner
	quota  *quota.Book
	leases *lease.Book

	version atomic.Uint64 // changed with mu held

	mu     sync.Mutex // taken before the locks of quota, leases and clones
	closed bool
	clones map[string]*clone
	names  map[nameOf]*clone
}

var _ dns.Directory = (*registry)(nil)

func newRegistry(runner runtime.Runner, q *quota.Book, leases *lease.Book) *registry {
	return &registry{runner: runner, quota: q, leases: leases, clones: map[string]*clone{}, names: map[nameOf]*clone{}}
}

// close has no clone handed out any more: the next Manager would keep what nobody got.
func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// handOut makes clones visible, all of them or none, and old ones, whose places they take, invisible. It returns those
// that were visible. nil stands for none in either list.
func (r *registry) handOut(caller access.Caller, by lease.Lease, clones, old []*clone) (replaced []*clone, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosing
	}
	if err := r.leases.Join(caller, by, lives(clones)...); err != nil {
		return nil, err
	}
	for i, c := range clones {
		if c == nil {
			continue
		}
		r.register(c) // first, so that nobody else gets the room
		if old[i] != nil && r.unregister(old[i]) {
			replaced = append(replaced, old[i])
		}
	}
	return replaced, nil
}

// lives says how long each clone lives that is there.
func lives(clones []*clone) []lease.Clone {
	var list []lease.Clone
	for _, c := range clones {
		if c != nil {
			rec := c.record()
			list = append(list, lease.Clone{ID: c.id, Life: rec.life()})
		}
	}
	return list
}

// resume makes a clone visible that an earlier process has handed out.
func (r *registry) resume(c *clone) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.register(c)
	rec := c.record()
	r.leases.Resume(rec.OwnerUID, rec.Holder, lease.Clone{ID: c.id, Life: rec.life()})
}

// register makes a clone visible. The caller holds mu.
func (r *registry) register(c *clone) {
	rec := c.record()
	r.clones[c.id] = c
	r.quota.Add(c.id, rec.OwnerUID, rec.Limits.MemoryBytes)
	r.version.Add(1)
	if rec.Name != "" {
		r.names[c.name()] = c
	}
}

// unregister makes a clone invisible. It returns false if it was so already. The caller holds mu.
func (r *registry) unregister(c *clone) bool {
	if r.clones[c.id] != c {
		return false
	}
	delete(r.clones, c.id)
	r.version.Add(1)
	if r.names[c.name()] == c {
		delete(r.names, c.name())
	}
	close(c.gone)
	r.quota.Remove(c.id)
	r.leases.Leave(c.id)
	return true
}

// remove makes a clone invisible. It returns false if somebody else was faster.
func (r *registry) remove(c *clone) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unregister(c)
}

// has says whether a clone is handed out.
func (r *registry) has(c *clone) bool { return r.get(c.id) == c }

// get returns the clone of an id, or nil.
func (r *registry) get(id string) *clone {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clones[id]
}

// named returns the clone that has a name of a user's, or nil.
func (r *registry) named(uid int, name string) *clone {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names[nameOf{uid, name}]
}

// find returns the clone of an id, a name, or a unique prefix of an id, among those that the caller may know of. Their
// own names come first.
func (r *registry) find(caller access.Caller, id string) (*clone, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clones[id]; c != nil && caller.May(c.record().OwnerUID) {
		return c, nil
	}
	if c := r.names[nameOf{caller.UID(), id}]; c != nil {
		return c, nil
	}
	var found []*clone
	for _, c := range r.clones {
		name := c.name()
		if id != "" && (strings.HasPrefix(c.id, id) || name.name == id && r.names[name] == c) && caller.May(name.uid) {
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

// running returns a clone of the caller's whose server runs.
func (r *registry) running(caller access.Caller, id string) (*clone, error) {
	c, err := r.find(caller, id)
	if err == nil && c.isDead() {
		return nil, fmt.Errorf("the server of clone %s has ended: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	return c, err
}

// list returns the clones that have all the labels, of those that the caller may know of.
func (r *registry) list(caller access.Caller, labels map[string]string) []*clone {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*clone, 0, len(r.clones))
	for _, c := range r.clones {
		if rec := c.record(); hasLabels(rec.Labels, labels) && caller.May(rec.OwnerUID) {
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

// live returns how many clones a golden has.
func (r *registry) live(ref snapshot.Ref) (n int) {
	for _, c := range r.list(access.Daemon, nil) {
		if c.golden.Name == ref.Name && (ref.Version == 0 || c.golden.Version == ref.Version) {
			n++
		}
	}
	return n
}

// NamesVersion implements [dns.Directory]. It takes no lock.
func (r *registry) NamesVersion() uint64 { return r.version.Load() }

// Names implements [dns.Directory].
func (r *registry) Names() []dns.Clone {
	r.mu.Lock()
	recs := make([]record, 0, len(r.clones))
	for _, c := range r.clones {
		rec := c.record()
		if r.names[c.name()] != c { // its successor has it
			rec.Name = ""
		}
		recs = append(recs, rec)
	}
	r.mu.Unlock()
	slices.SortFunc(recs, func(a, b record) int { return a.CreatedAt.Compare(b.CreatedAt) })
	list := make([]dns.Clone, len(recs))
	for i, rec := range recs {
		list[i] = rec.describe()
	}
	return list
}

// update changes the record of a clone, handed out or not, first where it is kept.
func (r *registry) update(ctx context.Context, c *clone, change func(*record)) error {
	c.saving.Lock()
	defer c.saving.Unlock()
	rec := c.record()
	change(&rec)
	b, err := rec.encode()
	if err != nil {
		return err
	}
	if err := r.runner.SetRecord(ctx, c.id, b); err != nil {
		return fmt.Errorf("record clone %s: %w", c.id, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c.set(rec)
	if !r.leases.Extend(c.id, rec.life()) && r.clones[c.id] == c {
		return fmt.Errorf("clone %s has ended: %w", c.id, errdefs.ErrNotFound)
	}
	return nil
}
