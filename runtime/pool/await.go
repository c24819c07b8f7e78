package pool

import "slices"

// Await is somebody who has found a pool empty, and takes a member should one
// be made before it is his turn to make his own: members that were begun earlier
// go to those who wait, not to whoever comes later.
type Await[M comparable] struct {
	pool  *Pool[M]
	shelf *shelf[M]
	came  chan struct{} // closed with the member given
	got   M             // guarded by Pool.mu until came is closed
}

// Came is closed when there is a member: Stop returns it.
func (a *Await[M]) Came() <-chan struct{} { return a.came }

// Stop ends the wait. It returns the member that was given, which is the caller's then.
func (a *Await[M]) Stop() (member M, ok bool) {
	defer a.pool.Poke() // it left the making to those who wait
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	select {
	case <-a.came:
		return a.got, true
	default:
	}
	if i := slices.Index(a.shelf.waiting, a); i >= 0 {
		a.shelf.waiting = slices.Delete(a.shelf.waiting, i, i+1)
	}
	return member, false
}

// give hands a member over. The caller holds Pool.mu.
func (a *Await[M]) give(member M) {
	a.got = member
	close(a.came)
}
