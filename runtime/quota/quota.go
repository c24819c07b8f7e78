// Package quota says whether there is room for more clones: for each user, and for all
// together. Who asks for more is refused, or waits until others have given up theirs.
//
// It knows numbers only: of clones, users and bytes.
package quota

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Bounds are what clones may take together; 0 is no bound.
type Bounds struct {
	Clones int
	Memory int64 // bytes: the limit of each clone, or else what it uses
	Disk   int64 // bytes, as used
}

// unknownMemory is what a clone without a limit counts with before it is measured, in bytes.
const unknownMemory = 64 << 20

// share is what clones take.
type share struct {
	clones       int
	memory, disk int64
}

func (s share) plus(o share) share {
	return share{s.clones + o.clones, s.memory + o.memory, s.disk + o.disk}
}

func (s share) minus(o share) share {
	return share{s.clones - o.clones, s.memory - o.memory, s.disk - o.disk}
}

// exceeded says which bound a share is beyond, "" if none.
func (b Bounds) exceeded(s share) string {
	switch {
	case b.Clones > 0 && s.clones > b.Clones:
		return fmt.Sprintf("%d clones", b.Clones)
	case b.Memory > 0 && s.memory > b.Memory:
		return fmt.Sprintf("%d MiB of memory", b.Memory>>20)
	case b.Disk > 0 && s.disk > b.Disk:
		return fmt.Sprintf("%d MiB of disk", b.Disk>>20)
	}
	return ""
}

// Request asks for room for clones that are not made yet.
type Request struct {
	UID    int
	Exempt bool // from the bounds of each user
	Clones int
	Memory int64         // limit of each clone in bytes; 0 is none
	Wait   time.Duration // for others to leave; 0 is not at all
}

// Book keeps what clones take. It is safe for concurrent use, and calls nobody.
type Book struct {
	user, all Bounds
	payer     func(uid int) int

	mu      sync.Mutex
	clones  map[string]entry
	taken   map[int]share // by uid: clones that there are, and room that was given for some
	total   share         // of taken
	waiting []*waiter
}

// entry is a clone that there is.
type entry struct {
	uid   int
	limit int64 // of memory; 0 is none
	share
}

// waiter is a request that wants room.
type waiter struct {
	uid      int
	exempt   bool
	need     share
	admitted chan struct{} // closed when it has room
}

// New returns a Book that bounds the clones of each user, and those of all. payer says whose bounds hold for a user; nil:
// everybody's own.
func New(user, all Bounds, payer func(uid int) int) *Book {
	if payer == nil {
		payer = func(uid int) int { return uid }
	}
	return &Book{user: user, all: all, payer: payer, clones: map[string]entry{}, taken: map[int]share{}}
}

// Admit returns when there is room for what r asks for, no later than r.Wait. The room is
// held until release is called: call it once the clones were added, or were not made.
//
// An error is ResourceExhausted and names the bound, or is that of ctx. What is more than a
// bound allows to anybody is refused at once.
func (b *Book) Admit(ctx context.Context, r Request) (release func(), err error) {
	if r.Clones == 0 || b.user == (Bounds{}) && b.all == (Bounds{}) {
		return func() {}, nil
	}
	w := &waiter{
		uid: b.payer(r.UID), exempt: r.Exempt, admitted: make(chan struct{}),
		need: share{clones: r.Clones, memory: int64(r.Clones) * memory(r.Memory, 0)},
	}
	release = func() { b.release(w) }
	b.mu.Lock()
	exceeded := b.exceeded(w)
	switch {
	case exceeded == "":
		b.take(w.uid, w.need)
		b.mu.Unlock()
		return release, nil
	case r.Wait == 0 || b.neverFits(w):
		b.mu.Unlock()
		return nil, errNoRoom(exceeded)
	}
	b.waiting = append(b.waiting, w)
	b.mu.Unlock()
	if err := b.await(ctx, w, r.Wait); err != nil {
		return nil, err
	}
	return release, nil
}

// await waits until w is admitted.
func (b *Book) await(ctx context.Context, w *waiter, most time.Duration) error {
	timeout := time.NewTimer(most)
	defer timeout.Stop()
	select {
	case <-w.admitted:
		return nil
	case <-timeout.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, w)
	if i < 0 { // it was admitted just now
		return nil
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errNoRoom(b.exceeded(w))
}

func errNoRoom(exceeded string) error {
	return fmt.Errorf("no room: %s is all there may be: %w", exceeded, errdefs.ErrResourceExhausted)
}

// release gives room back, and lets others in.
func (b *Book) release(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.give(w.uid, w.need)
	b.admit()
}

// Fits says why clones that a user wants kept ready, beside those that they have, are beyond the bounds of each
// user: ResourceExhausted. limit is the memory of each in bytes, 0 for none. It holds no room.
func (b *Book) Fits(uid, clones int, limit int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bound := b.user.exceeded(b.taken[b.payer(uid)].plus(share{clones: clones, memory: int64(clones) * memory(limit, 0)})); bound != "" {
		return errNoRoom(bound + " of each user")
	}
	return nil
}

// Add counts a clone that there is now. memory is its limit in bytes, 0 for none.
func (b *Book) Add(id string, uid int, limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(id, entry{uid: b.payer(uid), limit: limit, share: share{1, memory(limit, 0), 0}})
}

// Measured counts a clone with what it uses now, in bytes.
func (b *Book) Measured(id string, used, disk int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.clones[id]
	if !ok { // it went while it was measured
		return
	}
	e.share = share{1, memory(e.limit, used), disk}
	b.set(id, e)
	b.admit()
}

// Remove no longer counts a clone, and lets others in.
func (b *Book) Remove(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(id, entry{})
	b.admit()
}

// Waiting is how many requests wait for room.
func (b *Book) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

// memory is what a clone counts with.
func memory(limit, used int64) int64 {
	if limit > 0 {
		return limit
	}
	return max(used, unknownMemory)
}

// set replaces what a clone counts with; none is no clone. The caller holds mu.
func (b *Book) set(id string, e entry) {
	if old, ok := b.clones[id]; ok {
		b.give(old.uid, old.share)
		delete(b.clones, id)
	}
	if e.share != (share{}) {
		b.take(e.uid, e.share)
		b.clones[id] = e
	}
}

// take counts a share, give counts it no longer. The caller holds mu.
func (b *Book) take(uid int, s share) {
	b.total = b.total.plus(s)
	b.taken[uid] = b.taken[uid].plus(s)
}

func (b *Book) give(uid int, s share) {
	b.total = b.total.minus(s)
	if b.taken[uid] = b.taken[uid].minus(s); b.taken[uid] == (share{}) {
		delete(b.taken, uid)
	}
}

// exceeded says which bound w would exceed now, "" if none. The caller holds mu.
func (b *Book) exceeded(w *waiter) string {
	if bound := b.all.exceeded(b.total.plus(w.need)); bound != "" {
		return bound + " in all"
	}
	if bound := b.user.exceeded(b.taken[w.uid].plus(w.need)); bound != "" && !w.exempt {
		return bound + " of each user"
	}
	return ""
}

// neverFits says that a request is larger than what there may be.
func (b *Book) neverFits(w *waiter) bool {
	return b.all.exceeded(w.need) != "" || !w.exempt && b.user.exceeded(w.need) != ""
}

// admit lets in those for whom there is room now: of those who wait, the user with the
// fewest clones comes first, then who came first. It is called whenever something was given
// back, so nobody waits who has room, and a newcomer who has room passes nobody by.
// The caller holds mu.
func (b *Book) admit() {
	for {
		next := -1
		for i, w := range b.waiting {
			if b.exceeded(w) == "" && (next < 0 || b.taken[w.uid].clones < b.taken[b.waiting[next].uid].clones) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := b.waiting[next]
		b.waiting = slices.Delete(b.waiting, next, next+1)
		b.take(w.uid, w.need)
		close(w.admitted)
	}
}
