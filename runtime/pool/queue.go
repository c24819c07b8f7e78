package pool

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Queue lets in so many at a time, first come, first served. It is safe for
// concurrent use.
type Queue struct {
	slots int

	mu      sync.Mutex
	held    int
	waiting []chan struct{} // closed when it is its turn
	hold    average
}

// NewQueue returns a Queue with room for slots.
func NewQueue(slots int) *Queue { return &Queue{slots: slots} }

// Enter waits until it is the caller's turn, who must call leave when done. moved is told
// the place in the queue, from 1, and how long that may take: once if there is
// a wait, and whenever the place has changed. When ctx ends, place is the place
// that was reached.
func (q *Queue) Enter(ctx context.Context, moved func(place int, estimate time.Duration)) (leave func(), place int, err error) {
	turn := q.join()
	if turn == nil {
		return q.leaver(), 0, nil
	}
	tick := time.NewTicker(placeInterval)
	defer tick.Stop()
	for {
		now := q.place(turn)
		if now != place && now > 0 {
			place = now
			moved(place, q.Estimate(place))
		}
		select {
		case <-turn:
			return q.leaver(), 0, nil
		case <-tick.C:
		case <-ctx.Done():
			q.forget(turn)
			return nil, place, ctx.Err()
		}
	}
}

// placeInterval is how often somebody who waits is told of a new place.
const placeInterval = 200 * time.Millisecond

// join returns nil if there is room, else what is closed when there is.
func (q *Queue) join() chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.held < q.slots {
		q.held++
		return nil
	}
	turn := make(chan struct{})
	q.waiting = append(q.waiting, turn)
	return turn
}

func (q *Queue) place(turn chan struct{}) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Index(q.waiting, turn) + 1
}

// forget takes one out of the queue who does not wait any more.
func (q *Queue) forget(turn chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, turn); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
		return
	}
	q.next() // it was given its turn just now
}

// leaver returns what gives the slot to the next.
func (q *Queue) leaver() func() {
	began := time.Now()
	return sync.OnceFunc(func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.hold.add(time.Since(began))
		q.next()
	})
}

// next hands a free slot on. The caller holds mu.
func (q *Queue) next() {
	if len(q.waiting) == 0 {
		q.held--
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}

// Busy returns how many are in, and how many wait.
func (q *Queue) Busy() (in, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.held, len(q.waiting)
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
