package lease

import "time"

// Warning is how long before the end of a time the user of a clone is told.
func Warning(ttl time.Duration) time.Duration { return min(ttl/10, 5*time.Minute) }

// poke tells watch that a deadline has changed.
func (b *Book) poke() {
	select {
	case b.wake <- struct{}{}:
	default: // it is awake already
	}
}

// watch tells of clones when their time has come: one goroutine, one timer.
func (b *Book) watch() {
	for b.ctx.Err() == nil {
		var timer <-chan time.Time
		if next := b.look(time.Now()); !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-timer:
		case <-b.wake:
		case <-b.ctx.Done():
		}
	}
}

// look tells of the clones whose time has come, or comes soon, and returns when to look again; zero is when something
// has changed.
func (b *Book) look(now time.Time) time.Time {
	r := round{now: now, ended: map[string]string{}, ending: map[string]time.Time{}}
	b.mu.Lock()
	for id, l := range b.leases {
		if l.holders == 0 && !l.deadline.IsZero() && r.passed(l.deadline) {
			delete(b.leases, id)
		}
	}
	for id, c := range b.clones {
		b.judge(&r, id, c)
	}
	b.mu.Unlock()
	for id, why := range r.ended {
		b.opts.Ended(id, why)
	}
	for id, at := range r.ending {
		b.opts.Ending(id, at)
	}
	return r.next
}

// judge finds out whether a clone's time has come. The caller holds mu.
func (b *Book) judge(r *round, id string, c *clone) {
	switch {
	case c.Protected:
	case c.Lease != "" && b.leases[c.Lease] == nil:
		r.ended[id] = "its lease has ended"
		delete(b.clones, id)
	case c.Until.IsZero():
	case r.passed(c.Until):
		r.ended[id] = "its time is over"
		delete(b.clones, id)
	case !c.warned.Equal(c.Until) && r.passed(c.Until.Add(-Warning(c.Until.Sub(c.Since)))):
		r.ending[id] = c.Until
		c.warned = c.Until
	}
}

// round is one look at all deadlines.
type round struct {
	now    time.Time
	next   time.Time // the nearest deadline that has not passed; zero is none
	ended  map[string]string
	ending map[string]time.Time
}

// passed says whether a deadline has passed, and else notes it.
func (r *round) passed(at time.Time) bool {
	if !at.After(r.now) {
		return true
	}
	if r.next.IsZero() || at.Before(r.next) {
		r.next = at
	}
	return false
}
