package pool

import (
	"cmp"
	"slices"
	"time"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

const (
	// lookAgain is how often demand is looked at that nobody adds to.
	lookAgain  = time.Minute
	minBackoff = time.Second
	maxBackoff = time.Minute
	// rest is how long the machine is left to whoever took a member, as long as
	// half of them are there: making one takes all cores, and a claim is over in a
	// twentieth of that.
	rest = 50 * time.Millisecond
)

// run is the one goroutine that decides.
func (p *Pool[M]) run() {
	for {
		next := p.balance(time.Now())
		select {
		case <-p.wake:
		case <-time.After(next):
		case <-p.ctx.Done():
			return
		}
	}
}

// balance discards what is dead or too much and has made what lacks. It returns
// when to look again, if nothing happens before.
func (p *Pool[M]) balance(now time.Time) time.Duration {
	limit := p.opts.Limit()
	p.mu.Lock()
	gone := p.sweep(now)
	p.size(now)
	for _, s := range p.shelves {
		if n := len(s.members) - s.wanted; n > 0 {
			gone, s.members = append(gone, s.members[:n]...), s.members[n:]
		}
	}
	next := lookAgain
	for p.making < limit && !p.closed {
		s, wait := p.neediest(now)
		if wait > 0 {
			next = min(next, wait)
		}
		if s == nil {
			break
		}
		s.making++
		p.making++
		golden := s.golden // Update may change it meanwhile
		p.wg.Go(func() { p.add(s, golden) })
	}
	p.discard(gone)
	p.mu.Unlock()
	return next
}

// sweep takes out the members that have died. A golden whose members die is
// tried again less and less often. The caller holds mu.
func (p *Pool[M]) sweep(now time.Time) (dead []M) {
	for _, s := range p.shelves {
		before := len(dead)
		s.members = slices.DeleteFunc(s.members, func(m M) bool {
			if !p.opts.Dead(m) {
				return false
			}
			dead = append(dead, m)
			return true
		})
		if len(dead) > before {
			s.failed(now)
		}
	}
	return dead
}

func (s *shelf[M]) failed(now time.Time) {
	s.retryAt = now.Add(min(minBackoff<<min(s.failures, 10), maxBackoff))
	s.failures++
}

// size says how many members each golden is to have: what was set for its name,
// else what the demand is worth. Where memory is short, those with a size go
// first, then those most in demand. The caller holds mu.
func (p *Pool[M]) size(now time.Time) {
	left := p.opts.Memory
	for _, s := range p.ordered(now) {
		s.wanted = p.ask(s, now)
		if p.paused[s.golden.Name] > 0 {
			s.wanted = 0
		}
		if p.opts.Memory > 0 {
			s.wanted = min(s.wanted, int(max(left, 0)/s.cost))
		}
		left -= int64(s.wanted) * s.cost
	}
}

// ask is size without the bound of memory. The caller holds mu.
func (p *Pool[M]) ask(s *shelf[M], now time.Time) int {
	size, set := p.sizes[s.golden.Name]
	current := p.known[s.golden.Name] == s.golden.Version
	switch {
	case set && current:
		return size
	case set && size == 0:
		return 0
	case !current:
		size = 0
	default:
		size = p.opts.Size
	}
	if p.opts.Auto {
		size = max(size, min(s.demand.wanted(now), p.opts.Max))
	}
	return size
}

func (p *Pool[M]) ordered(now time.Time) []*shelf[M] {
	all := make([]*shelf[M], 0, len(p.shelves))
	for _, s := range p.shelves {
		all = append(all, s)
	}
	set := func(s *shelf[M]) int { return p.sizes[s.golden.Name] }
	slices.SortFunc(all, func(a, b *shelf[M]) int {
		return cmp.Or(cmp.Compare(set(b), set(a)), cmp.Compare(b.demand.peakNow(now), a.demand.peakNow(now)),
			cmp.Compare(a.golden.Ref().String(), b.golden.Ref().String()))
	})
	return all
}

// neediest returns the shelf that lacks the largest part of its members, or how
// long until one that failed is tried again. The caller holds mu.
func (p *Pool[M]) neediest(now time.Time) (_ *shelf[M], wait time.Duration) {
	var found *shelf[M]
	lack := 0.0
	for _, s := range p.shelves {
		missing := s.wanted - len(s.members) - s.making
		if missing <= 0 || len(s.waiting) > 0 { // who waits makes his own when it is his turn
			continue
		}
		d := s.retryAt.Sub(now)
		if len(s.members) >= (s.wanted+1)/2 {
			d = max(d, s.claimed.Add(rest).Sub(now))
		}
		if d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if part := float64(missing) / float64(s.wanted); part > lack {
			found, lack = s, part
		}
	}
	return found, wait
}

// add makes one member and puts it on its shelf, if that is there still.
func (p *Pool[M]) add(s *shelf[M], g snapshot.Golden) {
	began := time.Now()
	m, err := p.opts.Make(p.ctx, g)
	var cost int64
	if err == nil {
		cost = p.opts.Cost(p.ctx, m)
	}
	p.mu.Lock()
	s.making--
	p.making--
	close(p.changed)
	p.changed = make(chan struct{})
	kept := false
	switch {
	case err != nil:
		s.failed(time.Now())
	default:
		p.refill.add(time.Since(began))
		if cost > 0 {
			s.cost = cost
		}
		kept = p.shelves[g.Ref()] == s && p.paused[g.Name] == 0
		switch {
		case !kept:
			p.opts.Discard(m)
		case len(s.waiting) > 0:
			s.waiting[0].give(m)
			s.hits, s.misses = s.hits+1, s.misses-1
			s.waiting = s.waiting[1:]
		default:
			s.members = append(s.members, m)
		}
	}
	p.mu.Unlock()
	if err != nil && p.ctx.Err() == nil {
		p.opts.Logger.Warn("pool member not made", "golden", g.Ref().String(), "error", err)
	}
	p.Poke()
}

// Stat is what is known of one golden's members.
type Stat struct {
	Golden snapshot.Ref
	// Size is what was set for the golden's name; -1 if nothing was.
	Size                  int
	Wanted, Ready, Making int
	Hits, Misses          uint64
}

// Stats tells of each golden's current version, and of others that somebody has
// asked for, by name and version.
func (p *Pool[M]) Stats() []Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size(time.Now())
	stats := make([]Stat, 0, len(p.shelves))
	for ref, s := range p.shelves {
		size, set := p.sizes[ref.Name]
		if !set {
			size = -1
		}
		stats = append(stats, Stat{
			Golden: ref, Size: size, Wanted: s.wanted, Ready: len(s.members), Making: s.making,
			Hits: s.hits, Misses: s.misses,
		})
	}
	slices.SortFunc(stats, func(a, b Stat) int {
		return cmp.Or(cmp.Compare(a.Golden.Name, b.Golden.Name), cmp.Compare(a.Golden.Version, b.Golden.Version))
	})
	return stats
}
