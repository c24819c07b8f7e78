package sim

import (
	"cmp"
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
)

// world is the state of a simulation at one moment.
type world struct {
	Model
	callers []Arrival
	rand    *rand.Rand
	res     Result

	now       float64
	next      int // caller who comes next
	served    int
	used      float64 // processor seconds
	busy      float64 // processors in use now
	ready     int     // members that wait
	refilling int     // members that are made
	making    int     // slots that are taken
	removing  int
	toRemove  int
	live      int // clones that callers have, or are handed
	lastClaim float64
	outside   []int    // callers who wait for Model.Live
	queue     []int    // callers who wait for a member or a slot
	tasks     []*task  // what is worked at now
	ends      lifetime // when clones are given back
}

// kind says what a task ends with.
type kind int

const (
	claiming kind = iota // a caller has a member
	asking               // a caller has had his answers
	own                  // a caller has a clone that was made for him
	refill               // the pool has a member more
	removal              // a clone is gone
	noCaller = -1
)

// task is work under way. left is how long it takes yet, alone on the machine.
type task struct {
	kind   kind
	caller int
	left   float64
	cpus   float64
	speed  float64 // now, compared with a machine of its own
	until  float64 // asking: when the caller gives the clone back, if not later
}

// lifetime is a heap of the times at which clones are given back.
type lifetime []float64

func (l lifetime) Len() int           { return len(l) }
func (l lifetime) Less(i, j int) bool { return l[i] < l[j] }
func (l lifetime) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *lifetime) Push(x any)        { *l = append(*l, x.(float64)) }
func (l *lifetime) Pop() any {
	old := *l
	last := old[len(old)-1]
	*l = old[:len(old)-1]
	return last
}

// advance goes to the next event, and handles it.
func (w *world) advance() {
	w.share()
	done, at := w.firstDone()
	happens := func() { w.finish(done) }
	if w.next < len(w.callers) && w.callers[w.next].At < at {
		at, happens = w.callers[w.next].At, w.arrive
	}
	if len(w.ends) > 0 && w.ends[0] < at {
		at, happens = w.ends[0], w.giveBack
	}
	if wait := w.restsUntil(); w.now < wait && wait < at {
		at, happens = wait, func() {}
	}
	w.pass(max(at-w.now, 0))
	w.now = max(at, w.now)
	happens()
	w.dispatch()
}

// arrive has the next caller come.
func (w *world) arrive() {
	w.outside = append(w.outside, w.next)
	w.next++
}

// giveBack ends the life of the clone that lives shortest.
func (w *world) giveBack() {
	heap.Pop(&w.ends)
	w.live--
	w.toRemove++
}

// share gives each task its part of the processors: the fair one, or all that it can use.
func (w *world) share() {
	left, n := w.Cores, len(w.tasks)+w.inUse()
	if w.Cores <= 0 {
		left = math.Inf(1)
	}
	part := func(cpus float64, of int) float64 {
		p := min(cpus, left/float64(n))
		left, n = left-p*float64(of), n-of
		return p
	}
	w.busy = 0
	others := w.inUse() == 0
	slices.SortStableFunc(w.tasks, func(a, b *task) int { return cmp.Compare(a.cpus, b.cpus) })
	for _, t := range w.tasks {
		if !others && w.Use < t.cpus {
			others = true
			w.busy += part(w.Use, w.inUse()) * float64(w.inUse())
		}
		p := part(t.cpus, 1)
		w.busy += p
		if t.speed = 1; p < t.cpus {
			t.speed = p / t.cpus
		}
	}
	if !others {
		w.busy += part(w.Use, w.inUse()) * float64(w.inUse())
	}
}

// inUse is how many clones keep processors busy for their callers.
func (w *world) inUse() int {
	if w.Use == 0 {
		return 0
	}
	return len(w.ends)
}

// firstDone returns the task that ends first if nothing else happens.
func (w *world) firstDone() (first *task, at float64) {
	at = math.Inf(1)
	for _, t := range w.tasks {
		if end := w.now + t.left/t.speed; first == nil || end < at {
			first, at = t, end
		}
	}
	return first, at
}

// pass lets time pass.
func (w *world) pass(d float64) {
	w.used += d * w.busy
	for _, t := range w.tasks {
		t.left -= d * t.speed
	}
}

func (w *world) begin(k kind, caller int, s Step) *task {
	t := &task{kind: k, caller: caller, cpus: s.CPUs}
	if s.Takes != nil {
		t.left = s.Takes(w.rand)
	}
	w.tasks = append(w.tasks, t)
	return t
}

// finish ends a task.
func (w *world) finish(done *task) {
	for i, t := range w.tasks {
		if t == done {
			w.tasks = append(w.tasks[:i], w.tasks[i+1:]...)
			break
		}
	}
	switch done.kind {
	case claiming:
		w.serve(done.caller)
	case asking:
		heap.Push(&w.ends, max(w.now, done.until))
	case own:
		w.making--
		w.serve(done.caller)
	case refill:
		w.making--
		w.refilling--
		w.give()
	case removal:
		w.removing--
	}
}

// give hands a member that was just made to the first who waits.
func (w *world) give() {
	if len(w.queue) == 0 {
		w.ready++
		return
	}
	w.res.Given++
	w.begin(claiming, w.queue[0], w.Claim)
	w.queue = w.queue[1:]
}

// serve gives a caller his clone.
func (w *world) serve(caller int) {
	w.res.Latency[caller] = w.now - w.callers[caller].At
	w.served++
	until := w.now + w.callers[caller].Keeps
	if w.Query.Takes == nil {
		heap.Push(&w.ends, until)
		return
	}
	w.begin(asking, caller, w.Query).until = until
}

// held says that nothing is made until more clones are gone.
func (w *world) held() bool { return w.Backlog > 0 && w.toRemove+w.removing > w.Backlog }

// dispatch begins all that can begin now.
func (w *world) dispatch() {
	for len(w.outside) > 0 && (w.Live == 0 || w.live < w.Live) {
		w.come(w.outside[0])
		w.outside = w.outside[1:]
	}
	for len(w.queue) > 0 && w.making < w.Slots && !w.held() {
		w.making++
		w.res.Made++
		w.begin(own, w.queue[0], w.Make)
		w.queue = w.queue[1:]
	}
	for w.wantsMember() && w.restsUntil() <= w.now {
		w.making++
		w.refilling++
		w.begin(refill, noCaller, w.Make)
	}
	for w.toRemove > 0 && (w.Removers == 0 || w.removing < w.Removers) {
		w.toRemove--
		w.removing++
		w.begin(removal, noCaller, w.Remove)
	}
	w.res.Queue = max(w.res.Queue, len(w.queue)+len(w.outside))
}

// come has a caller take a member, or a place in the queue.
func (w *world) come(caller int) {
	w.live++
	w.res.Live = max(w.res.Live, w.live)
	if w.ready == 0 {
		w.queue = append(w.queue, caller)
		return
	}
	w.ready--
	w.res.Hits++
	w.lastClaim = w.now
	w.begin(claiming, caller, w.Claim)
}

// wantsMember says whether the pool is to begin a member. One at a time is made
// while callers have theirs made.
func (w *world) wantsMember() bool {
	limit := w.Refill
	if w.making > w.refilling {
		limit = min(limit, 1)
	}
	return !w.held() && len(w.queue) == 0 && w.ready+w.refilling < w.Pool && w.refilling < limit && w.making < w.Slots
}

// restsUntil is when the pool goes on after a claim; it does at once while less
// than half of it is there.
func (w *world) restsUntil() float64 {
	if w.ready < (w.Pool+1)/2 {
		return 0
	}
	return w.lastClaim + w.Rest
}
