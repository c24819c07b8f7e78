package manager

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// share is what clones take of a quota.
type share struct {
	clones       int
	memory, disk int64
}

func (s share) plus(o share) share {
	return share{s.clones + o.clones, s.memory + o.memory, s.disk + o.disk}
}

// over says which bound of a quota is passed, "" if none.
func (q Quota) over(s share) string {
	switch {
	case q.Clones > 0 && s.clones > q.Clones:
		return fmt.Sprintf("%d clones", q.Clones)
	case q.Memory > 0 && s.memory > q.Memory:
		return fmt.Sprintf("%d MiB of memory", q.Memory>>20)
	case q.Disk > 0 && s.disk > q.Disk:
		return fmt.Sprintf("%d MiB of disk", q.Disk>>20)
	}
	return ""
}

// admission is a request that wants room for clones.
type admission struct {
	uid     int
	admin   bool
	need    share
	granted chan struct{} // closed when it has room
}

// unknownMemory is what a clone without a limit is taken to use before it is measured.
const unknownMemory = 64 << 20

// share is what the clone counts for. The caller holds mu.
func (c *clone) share() share {
	s := share{1, c.rec.Limits.MemoryBytes, c.disk.Load()}
	if s.memory == 0 {
		s.memory = max(c.memory.Load(), unknownMemory)
	}
	return s
}

// admit waits until there is room for count clones more, no longer than want allows: not
// at all where it does not say. What it takes is given back by release.
func (m *Manager) admit(ctx context.Context, want *plan, count int) (release func(), err error) {
	if err := m.Room(); err != nil {
		return nil, err
	}
	l := m.opts.Limits
	if count == 0 || l.User == (Quota{}) && l.All == (Quota{}) {
		return func() {}, nil
	}
	memory := want.limits.MemoryBytes
	if memory == 0 {
		memory = unknownMemory
	}
	a := &admission{
		uid: want.caller.UID, admin: want.caller.May(0), granted: make(chan struct{}),
		need: share{clones: count, memory: int64(count) * memory},
	}
	m.mu.Lock()
	over := m.overQuota(a)
	if over == "" && !m.queuedBefore(a) {
		m.take(a)
		m.mu.Unlock()
		return func() { m.giveBack(a) }, nil
	}
	if want.wait == 0 || over != "" && m.neverFits(a) {
		m.mu.Unlock()
		return nil, errOverQuota(over)
	}
	m.admissions = append(m.admissions, a)
	m.mu.Unlock()
	return m.awaitRoom(ctx, want, a)
}

func (m *Manager) awaitRoom(ctx context.Context, want *plan, a *admission) (release func(), err error) {
	wctx, cancel := context.WithTimeout(ctx, want.wait)
	defer cancel()
	select {
	case <-a.granted:
		return func() { m.giveBack(a) }, nil
	case <-wctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.Index(m.admissions, a)
	if i < 0 { // it was granted just now
		return func() { m.giveBack(a) }, nil
	}
	m.admissions = slices.Delete(m.admissions, i, i+1)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, errOverQuota(m.overQuota(a))
}

func errOverQuota(over string) error {
	if over == "" {
		over = "others who wait"
	}
	return snapshot.WithHint(
		fmt.Errorf("no room: %s is all there may be: %w", over, errdefs.ErrResourceExhausted),
		"remove clones (ctrsnap ls, ctrsnap rm), or wait for others to: --wait-timeout")
}

// overQuota says which quota keeps a request from being let in. The caller holds mu.
func (m *Manager) overQuota(a *admission) string {
	user, all := m.taken[a.uid].plus(a.need), a.need
	for _, s := range m.taken {
		all = all.plus(s)
	}
	for _, c := range m.clones {
		s := c.share()
		all = all.plus(s)
		if c.rec.OwnerUID == a.uid {
			user = user.plus(s)
		}
	}
	if over := m.opts.Limits.All.over(all); over != "" {
		return over + " in all"
	}
	if over := m.opts.Limits.User.over(user); over != "" && !a.admin {
		return over + " of each user"
	}
	return ""
}

// neverFits says that a request is larger than what there may be. The caller holds mu.
func (m *Manager) neverFits(a *admission) bool {
	return m.opts.Limits.All.over(a.need) != "" || !a.admin && m.opts.Limits.User.over(a.need) != ""
}

// queuedBefore says that somebody waits who is to come first: whoever has a quota of his
// own left is not held up by those who have not. The caller holds mu.
func (m *Manager) queuedBefore(a *admission) bool {
	return slices.ContainsFunc(m.admissions, func(o *admission) bool { return m.overQuota(o) == "" && o != a })
}

// take holds room for a request whose clones are not there yet. The caller holds mu.
func (m *Manager) take(a *admission) { m.taken[a.uid] = m.taken[a.uid].plus(a.need) }

// giveBack lets go of the room: the clones are there now, or will not be.
func (m *Manager) giveBack(a *admission) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := m.taken[a.uid].plus(share{-a.need.clones, -a.need.memory, -a.need.disk})
	m.taken[a.uid] = left
	if left == (share{}) {
		delete(m.taken, a.uid)
	}
	m.grant()
}

// grant lets in those for whom there is room now: of those who wait, the user with
// the fewest clones comes first, then who came first. The caller holds mu.
func (m *Manager) grant() {
	if len(m.admissions) == 0 {
		return
	}
	have := map[int]int{}
	for uid, s := range m.taken {
		have[uid] += s.clones
	}
	for _, c := range m.clones {
		have[c.rec.OwnerUID]++
	}
	slices.SortStableFunc(m.admissions, func(a, b *admission) int { return have[a.uid] - have[b.uid] })
	m.admissions = slices.DeleteFunc(m.admissions, func(a *admission) bool {
		if m.overQuota(a) != "" {
			return false
		}
		m.take(a)
		close(a.granted)
		return true
	})
}
