// Package lease keeps who holds which clones, and until when: by a lease, which connections, a process or a cgroup
// hold, by a TTL, or by whichever ends first.
//
// It knows ids and times only: whoever has the clones ends them.
package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/ctrsnap/ctrsnap/runtime"
	"github.com/ctrsnap/ctrsnap/runtime/access"
	"github.com/ctrsnap/ctrsnap/snapshot"
)

// releaseDelay is how long a lease outlives its connection. When the daemon stops, connections may end a moment before
// Close is called; this is not to cost anybody a clone.
const releaseDelay = 250 * time.Millisecond

// Lease is what the clones of a request live by.
type Lease struct {
	ID     string // "" is none
	New    bool   // else there is one, and it is the caller's
	Holder Holder // of a new one; nil if a connection is to hold it
}

// Life says how long a clone lives.
type Life struct {
	Lease     string    // the id of one; "" without
	Since     time.Time // when it was made
	Until     time.Time // the end of its TTL; zero without one
	Protected bool      // neither ends it
}

// Clone is a clone of the Book.
type Clone struct {
	ID string
	Life
}

// Options are what a Book works with. The functions are called by one goroutine, without a lock.
type Options struct {
	Grace        time.Duration // a new lease must be held within it
	RestartGrace time.Duration // the same for one that was resumed, from Serving on
	CgroupRoot   string        // where the cgroup filesystem is mounted
	// Ended is told of a clone whose life has ended, and why. The Book has forgotten it already.
	Ended func(clone, why string)
	// Ending is told ahead of a clone whose TTL ends at a time; see [Warning].
	Ending func(clone string, at time.Time)
}

// Book keeps leases and clones. It is safe for concurrent use. Close it.
type Book struct {
	opts   Options
	wake   chan struct{} // something about deadlines has changed
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	leases map[string]*lease
	clones map[string]*clone
}

// lease is what clones live by while somebody holds it.
type lease struct {
	uid      int // who may add clones, and hold it
	holders  int
	deadline time.Time // when it ends, if nobody holds it; zero until Serving is called
}

type clone struct {
	Life
	warned time.Time // of the end at that time
}

// New returns a Book, empty, that watches over what comes into it.
func New(opts Options) *Book {
	b := &Book{opts: opts, wake: make(chan struct{}, 1), leases: map[string]*lease{}, clones: map[string]*clone{}}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.wg.Go(b.watch)
	return b
}

// Close lets go of all that is held, without harm to the clones: none ends from here on. It is idempotent.
func (b *Book) Close() {
	b.cancel()
	b.wg.Wait()
}

// Join has clones live, all of them or none. NotFound says that their lease is not there, or not the caller's.
func (b *Book) Join(caller access.Caller, by Lease, clones ...Clone) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch l := b.leases[by.ID]; {
	case by.ID == "":
	case by.New:
		b.open(by.ID, &lease{uid: caller.UID(), deadline: time.Now().Add(b.opts.Grace)}, by.Holder)
	case l == nil || !caller.May(l.uid):
		return errNoLease(by.ID)
	}
	for _, c := range clones {
		b.clones[c.ID] = &clone{Life: c.Life}
	}
	b.poke()
	return nil
}

// Resume has a clone live that an earlier Book knew, of a user. Its lease waits for who held it: a process or cgroup,
// which is known by [Holder]'s text, or a connection, until Serving is called and RestartGrace from then on.
func (b *Book) Resume(uid int, holder string, c Clone) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.Lease != "" && b.leases[c.Lease] == nil {
		b.open(c.Lease, &lease{uid: uid}, b.parseHolder(holder))
	}
	b.clones[c.ID] = &clone{Life: c.Life}
	b.poke()
}

// Serving begins the time that the holders of resumed leases have to come back. Call it when they can.
func (b *Book) Serving() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.leases {
		if l.deadline.IsZero() {
			l.deadline = time.Now().Add(b.opts.RestartGrace)
		}
	}
	b.poke()
}

// Extend changes how long a clone lives. It returns false if its life has ended.
func (b *Book) Extend(id string, life Life) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.clones[id]
	if c == nil {
		return false
	}
	c.Life = life
	b.poke()
	return true
}

// Leave forgets a clone that somebody has ended.
func (b *Book) Leave(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.clones, id)
}

// Hold holds a lease until ctx ends, and calls held once it does. When the last holder has left, the clones of the
// lease end a moment later.
//
// They do not when the Book is closed, or the cause of ctx's end is [runtime.ErrStopping]: then the error is
// Unavailable, and the lease waits for its holder in the next Book. NotFound says that the lease is not there, or not
// the caller's.
func (b *Book) Hold(ctx context.Context, caller access.Caller, id string, held func()) error {
	b.mu.Lock()
	l := b.leases[id]
	if l == nil || !caller.May(l.uid) {
		b.mu.Unlock()
		return errNoLease(id)
	}
	l.holders++
	b.mu.Unlock()
	if b.ctx.Err() == nil {
		held()
	}
	select {
	case <-ctx.Done():
	case <-b.ctx.Done():
	}
	if b.ctx.Err() != nil || errors.Is(context.Cause(ctx), runtime.ErrStopping) {
		b.release(l, b.opts.RestartGrace)
		return fmt.Errorf("hold lease %s: the daemon is stopping: %w", id, errdefs.ErrUnavailable)
	}
	b.release(l, releaseDelay)
	return nil
}

// release gives a hold back; a lease that nobody takes within grace ends.
func (b *Book) release(l *lease, grace time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.holders--
	l.deadline = time.Now().Add(grace)
	b.poke()
}

// open enters a lease that h holds, if it is not nil. The caller holds mu.
func (b *Book) open(id string, l *lease, h Holder) {
	b.leases[id] = l
	if h == nil {
		return
	}
	l.holders++
	b.wg.Go(func() {
		h.await(b.ctx)
		if b.ctx.Err() == nil {
			b.release(l, 0)
		}
	})
}

func errNoLease(id string) error {
	return snapshot.WithHint(
		fmt.Errorf("no lease %.64q: %w", id, errdefs.ErrNotFound),
		"it was not held in time, or its connection has ended: ask for a new clone")
}
