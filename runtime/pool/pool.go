// Package pool keeps members ahead of those who will ask for them: it decides
// how many of which golden there should be, has them made when nothing more
// urgent is to be done, and gives each of them out once.
//
// What a member is, how it is made and how it is removed is its user's affair.
package pool

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

// unknownCost is what a member is taken to cost in memory before one was measured.
const unknownCost = 16 << 20

// Options are what a Pool works with. Make, Discard and Dead are required.
type Options[M comparable] struct {
	// Make makes a member that is ready to be given out. An error leaves
	// nothing behind.
	Make func(ctx context.Context, g snapshot.Golden) (M, error)
	// Discard has a member removed, in the background: what waits for removals
	// knows of this one when it returns. It does not block.
	Discard func(M)
	// Dead says that a member cannot be given out any more. It does not block.
	// Whoever makes it true calls Poke.
	Dead func(M) bool
	// Cost returns the bytes of memory of a member; nil or 0 if unknown.
	Cost func(context.Context, M) int64
	// Limit returns how many members may be made at a time now; 0 to wait
	// until Poke. nil means one.
	Limit func() int

	Size   int   // members of each golden's current version, whatever the demand
	Auto   bool  // follow the demand beyond Size
	Max    int   // members of one golden at most, by demand
	Memory int64 // bytes for all members; 0 means no bound
	Logger *slog.Logger
}

// Pool is members of any number of goldens. It is safe for concurrent use. Dead
// and Discard are called with its lock held: a member is on a shelf, being made,
// claimed, or on its way out, and never in between.
type Pool[M comparable] struct {
	opts Options[M]
	wake chan struct{}
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	started bool
	known   map[string]int             // current version by name
	sizes   map[string]int             // as set, by name
	shelves map[snapshot.Ref]*shelf[M] // by golden, with version
	paused  map[string]int             // names that are suspended, how often
	making  int
	changed chan struct{} // closed when a member was made, or was not
	refill  average       // how long that takes
}

// shelf is the members of one golden version.
type shelf[M comparable] struct {
	golden  snapshot.Golden
	members []M // oldest first
	making  int
	wanted  int
	claimed time.Time // the last one
	demand  demand
	cost    int64
	hits    uint64
	misses  uint64

	waiting []*Await[M] // those who take the next member that is made, first come first

	failures int       // in a row
	retryAt  time.Time // not before
}

// New returns a Pool that makes nothing until [Pool.Update] has told it what
// there is. The caller must Close it.
func New[M comparable](opts Options[M]) *Pool[M] {
	if opts.Limit == nil {
		opts.Limit = func() int { return 1 }
	}
	if opts.Cost == nil {
		opts.Cost = func(context.Context, M) int64 { return 0 }
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pool[M]{
		opts: opts, wake: make(chan struct{}, 1),
		known: map[string]int{}, sizes: map[string]int{}, shelves: map[snapshot.Ref]*shelf[M]{},
		paused: map[string]int{}, changed: make(chan struct{}),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// Close ends the making of members and waits for it. Members stay. It is
// idempotent.
func (p *Pool[M]) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	p.wg.Wait()
}

// Poke has the Pool look again at what is to be done.
func (p *Pool[M]) Poke() {
	select {
	case p.wake <- struct{}{}:
	default: // it will
	}
}

// Claim gives out a member that is alive. Nobody else gets it, whatever becomes
// of it. False means that there is none; the demand is noted either way.
func (p *Pool[M]) Claim(g snapshot.Golden) (member M, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claim(g)
}

// ClaimOrAwait is Claim, but where there is none, the caller is given the next
// one that nobody has waited longer for, should one be made meanwhile. He must
// Stop waiting.
func (p *Pool[M]) ClaimOrAwait(g snapshot.Golden) (member M, ok bool, w *Await[M]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if member, ok = p.claim(g); ok {
		return member, true, nil
	}
	s := p.shelf(g)
	w = &Await[M]{pool: p, shelf: s, came: make(chan struct{})}
	s.waiting = append(s.waiting, w)
	return member, false, w
}

// claim is Claim. The caller holds mu.
func (p *Pool[M]) claim(g snapshot.Golden) (member M, ok bool) {
	defer p.Poke()
	s := p.shelf(g)
	s.demand.claim(time.Now(), p.pace())
	alive := func(m M) bool { return !p.opts.Dead(m) }
	if i := slices.IndexFunc(s.members, alive); i >= 0 {
		m := s.members[i]
		s.members = slices.Delete(s.members, i, i+1)
		s.claimed = time.Now()
		s.hits++
		s.failures = 0
		return m, true
	}
	s.misses++
	return member, false
}

// pace is how long it takes to make one member more. The caller holds mu.
func (p *Pool[M]) pace() time.Duration { return p.refill.value }

// shelf returns the shelf of a golden. The caller holds mu.
func (p *Pool[M]) shelf(g snapshot.Golden) *shelf[M] {
	s := p.shelves[g.Ref()]
	if s == nil {
		s = &shelf[M]{golden: g, cost: unknownCost}
		p.shelves[g.Ref()] = s
	}
	return s
}

// Adopt takes in a member that was made earlier, by another process maybe. That
// somebody wanted it then is the demand that it stays for.
func (p *Pool[M]) Adopt(g snapshot.Golden, member M) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shelf(g)
	s.members = append(s.members, member)
	s.demand.seen(time.Now(), float64(len(s.members))/safety)
}

// Update tells which goldens there are now and what sizes were set, by name,
// and starts the Pool. What belongs to a golden that is not there is discarded.
// Of a golden that ceased to be its name's current version, the demand goes
// over to the one that is.
func (p *Pool[M]) Update(goldens []snapshot.Golden, sizes map[string]int) {
	now := time.Now()
	var gone []M
	p.mu.Lock()
	p.sizes = sizes
	exists := map[snapshot.Ref]bool{}
	for _, g := range goldens {
		exists[g.Ref()] = true
		if g.Current {
			p.moved(g, now)
		}
	}
	for ref, s := range p.shelves {
		if !exists[ref] {
			gone = append(gone, s.members...)
			delete(p.shelves, ref)
		}
	}
	if !p.started && !p.closed {
		p.started = true
		p.wg.Go(p.run)
	}
	p.discard(gone)
	p.mu.Unlock()
	p.Poke()
}

// moved takes note of a name's current version. The caller holds mu.
func (p *Pool[M]) moved(g snapshot.Golden, now time.Time) {
	old, ok := p.known[g.Name]
	p.known[g.Name] = g.Version
	to := p.shelf(g)
	to.golden = g
	if !ok || old == g.Version {
		return
	}
	if from := p.shelves[snapshot.Ref{Name: g.Name, Version: old}]; from != nil {
		to.demand.seen(now, from.demand.peakNow(now))
		from.demand = demand{}
	}
}

// Suspend discards the members of a golden (with version 0: of all versions of
// its name) and keeps new ones of that name from being made until resume is
// called. It returns when none is being made.
func (p *Pool[M]) Suspend(ctx context.Context, ref snapshot.Ref) (resume func(), err error) {
	var gone []M
	p.mu.Lock()
	p.paused[ref.Name]++
	for r, s := range p.shelves {
		if r.Name == ref.Name && (ref.Version == 0 || ref.Version == r.Version) {
			gone, s.members = append(gone, s.members...), nil
		}
	}
	p.discard(gone)
	p.mu.Unlock()
	resume = sync.OnceFunc(func() {
		p.mu.Lock()
		p.paused[ref.Name]--
		if p.paused[ref.Name] == 0 {
			delete(p.paused, ref.Name)
		}
		p.mu.Unlock()
		p.Poke()
	})
	if err := p.settle(ctx, ref.Name); err != nil {
		resume()
		return nil, err
	}
	return resume, nil
}

// settle waits until no member of name is being made.
func (p *Pool[M]) settle(ctx context.Context, name string) error {
	for {
		n, changed := p.makingOf(name)
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the pool of golden %s: %w", name, ctx.Err())
		}
	}
}

func (p *Pool[M]) makingOf(name string) (n int, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for r, s := range p.shelves {
		if r.Name == name {
			n += s.making
		}
	}
	return n, p.changed
}

// Empty discards all members, of goldens that are not there any more too. It is
// meant for a Pool that was not started.
func (p *Pool[M]) Empty() {
	var gone []M
	p.mu.Lock()
	for _, s := range p.shelves {
		gone, s.members = append(gone, s.members...), nil
	}
	p.discard(gone)
	p.mu.Unlock()
}

// discard removes members. The caller holds mu.
func (p *Pool[M]) discard(members []M) {
	for _, m := range members {
		p.opts.Discard(m)
	}
}
