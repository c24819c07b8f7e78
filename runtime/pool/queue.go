package pool

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Queue lets in so many at a time. It is fair between parties: of those who
// wait, the one that has the fewest in is next, and of these the one whose last
// turn is longest ago; within a party, first come is first served. So somebody
// who asks for one waits for a single turn of somebody who asks for a hundred.
// It is safe for concurrent use.
type Queue struct {
	slots  int
	guests int // further slots, for parties that have none

	mu      sync.Mutex
	held    int
	turns   uint64
	parties map[string]*party // those who are in or wait
	hold    average
}

// party is one of those between whom a Queue is fair.
type party struct {
	held    int
	last    uint64          // number of its last turn, or when it came
	waiting []chan struct{} // closed when it is its turn
}

// NewQueue returns a Queue with room for slots.
func NewQueue(slots int) *Queue { return &Queue{slots: slots, parties: map[string]*party{}} }

// NewGuestQueue returns a Queue with room for slots, and for guests more: they are for those who have none in. However
// long one party keeps its slots, another one does not wait for it until there are as many guests.
func NewGuestQueue(slots, guests int) *Queue {
	q := NewQueue(slots)
	q.guests = guests
	return q
}

// Waiting is what somebody who waits in a Queue is told, and may do.
type Waiting struct {
	// Moved is told the place in the queue, from 1, and how long that may take:
	// once if there is a wait, and whenever the place has changed. nil is fine.
	Moved func(place int, estimate time.Duration)
	// Instead ends the wait when it is closed: what was waited for came by another way.
	Instead <-chan struct{}
}

// Enter waits until it is the turn of who, who must call leave when done. leave is
// nil if the wait ended by Instead. When ctx ends, place is the place that was reached.
func (q *Queue) Enter(ctx context.Context, who string, w Waiting) (leave func(), place int, err error) {
	turn := q.join(who)
	if turn == nil {
		return q.leaver(who), 0, nil
	}
	tick := time.NewTicker(placeInterval)
	defer tick.Stop()
	for {
		now := q.place(who, turn)
		if now != place && now > 0 {
			place = now
			if w.Moved != nil {
				w.Moved(place, q.Estimate(place))
			}
		}
		select {
		case <-turn:
			return q.leaver(who), 0, nil
		case <-tick.C:
		case <-w.Instead:
			q.forget(who, turn)
			return nil, 0, nil
		case <-ctx.Done():
			q.forget(who, turn)
			return nil, place, ctx.Err()
		}
	}
}

// placeInterval is how often somebody who waits is told of a new place.
const placeInterval = 200 * time.Millisecond

// join returns nil if there is room, else what is closed when there is.
func (q *Queue) join(who string) chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.parties[who]
	if p == nil {
		q.turns++
		p = &party{last: q.turns} // whoever comes back is no newcomer: he joins the end
		q.parties[who] = p
	}
	if q.room(p) {
		q.take(p)
		return nil
	}
	turn := make(chan struct{})
	p.waiting = append(p.waiting, turn)
	return turn
}

// room says whether there is a slot for a party. The caller holds mu.
func (q *Queue) room(p *party) bool {
	return q.held < q.slots || p.held == 0 && q.held < q.slots+q.guests
}

// take gives a party one of the slots. The caller holds mu.
func (q *Queue) take(p *party) {
	q.turns++
	q.held++
	p.held++
	p.last = q.turns
}

// place is how many turns there are until that of one who waits, by who is
// where now; 0 if it has come.
func (q *Queue) place(who string, turn chan struct{}) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.parties[who]
	if p == nil {
		return 0
	}
	ahead := slices.Index(p.waiting, turn)
	if ahead < 0 {
		return 0
	}
	place := ahead + 1
	for _, other := range q.parties {
		if other == p {
			continue
		}
		// Turns go round once all have as many in: one for each of ours, and one
		// more if theirs is next.
		theirs := ahead + p.held - other.held
		if theirs >= 0 && other.last < p.last {
			theirs++
		}
		place += min(max(theirs, 0), len(other.waiting))
	}
	return place
}

// before says whether a's turn is before b's.
func before(a, b *party) bool {
	if a.held != b.held {
		return a.held < b.held
	}
	return a.last < b.last
}

// forget takes one out of the queue who does not wait any more.
func (q *Queue) forget(who string, turn chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.parties[who]
	if i := slices.Index(p.waiting, turn); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		q.drop(who)
		return
	}
	q.leave(who) // it was given its turn just now
}

// leaver returns what gives the slot of who to the next.
func (q *Queue) leaver(who string) func() {
	began := time.Now()
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.hold.add(time.Since(began))
		q.leave(who)
	})
}

// leave hands the slot of who on. The caller holds mu.
func (q *Queue) leave(who string) {
	q.parties[who].held--
	q.held--
	// There is room for the next one, or for nobody: he has the fewest in.
	if next := q.next(); next != nil && q.room(next) {
		close(next.waiting[0])
		next.waiting = next.waiting[1:]
		q.take(next)
	}
	q.drop(who)
}

// next returns the party whose turn it is, or nil if nobody waits. The caller holds mu.
func (q *Queue) next() *party {
	var found *party
	for _, p := range q.parties {
		if len(p.waiting) > 0 && (found == nil || before(p, found)) {
			found = p
		}
	}
	return found
}

// drop forgets a party that is not there any more. The caller holds mu.
func (q *Queue) drop(who string) {
	if p := q.parties[who]; p.held == 0 && len(p.waiting) == 0 {
		delete(q.parties, who)
	}
}

// Busy returns how many others than who are in, and how many of them wait.
func (q *Queue) Busy(who string) (in, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, p := range q.parties {
		if name != who {
			in += p.held
			waiting += len(p.waiting)
		}
	}
	return in, waiting
}

// Estimate returns how long the one at a place may wait, by how long others
// have stayed in lately.
func (q *Queue) Estimate(place int) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.hold.value * time.Duration(place) / time.Duration(q.slots)
}

// average is a mean that forgets: each new value counts for a quarter.
type average struct{ value time.Duration }

func (a *average) add(d time.Duration) {
	if a.value == 0 {
		a.value = d
		return
	}
	a.value += (d - a.value) / 4
}
