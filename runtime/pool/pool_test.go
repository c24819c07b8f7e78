package pool

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ctrsnap/ctrsnap/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// makeTime is how long a member takes to be made here.
const makeTime = time.Second

// member is one of a fake world.
type member struct {
	golden snapshot.Ref
	dead   bool // guarded by world.mu
	gone   bool
}

// world makes members and remembers what became of them.
type world struct {
	mu     sync.Mutex
	all    []*member
	making int
	most   int // made at a time
	limit  int
	fail   error
}

func (w *world) pool(t *testing.T, o Options[*member]) *Pool[*member] {
	w.limit = max(w.limit, 1)
	o.Make, o.Discard, o.Dead = w.make, w.discard, w.isDead
	o.Limit = func() int { w.mu.Lock(); defer w.mu.Unlock(); return w.limit }
	if o.Max == 0 {
		o.Max = 100
	}
	p := New(o)
	t.Cleanup(p.Close)
	return p
}

func (w *world) make(ctx context.Context, g snapshot.Golden) (*member, error) {
	w.mu.Lock()
	w.making++
	w.most = max(w.most, w.making)
	fail := w.fail
	w.mu.Unlock()
	var err error
	select {
	case <-time.After(makeTime):
		err = fail
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.making--
	if err != nil {
		return nil, err
	}
	m := &member{golden: g.Ref()}
	w.all = append(w.all, m)
	return m, nil
}

func (w *world) discard(m *member) {
	for range 1000 {
		runtime.Gosched() // whoever does not wait for it is ahead
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m.gone = true
}

func (w *world) isDead(m *member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return m.dead
}

// there returns how many members of ref exist.
func (w *world) there(ref snapshot.Ref) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, m := range w.all {
		if m.golden == ref && !m.gone {
			n++
		}
	}
	return n
}

func golden(version int, current bool) snapshot.Golden {
	return snapshot.Golden{Name: "shop", Version: version, Current: current}
}

func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestRefillInPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{limit: 2}
		p := w.pool(t, Options[*member]{})
		g := golden(1, true)
		p.Update([]snapshot.Golden{g}, map[string]int{"shop": 5})
		after(time.Second)
		if n := w.there(g.Ref()); n != 2 {
			t.Errorf("%d after one phase", n)
		}
		w.mu.Lock()
		w.limit = 0 // callers wait
		w.mu.Unlock()
		after(10 * time.Second)
		if n := w.there(g.Ref()); n != 4 {
			t.Errorf("%d, though it was to hold back after the phase under way", n)
		}
		w.mu.Lock()
		w.limit = 2
		w.mu.Unlock()
		p.Poke()
		after(time.Minute)
		if n := w.there(g.Ref()); n != 5 || w.most != 2 {
			t.Errorf("%d in the end, %d at a time", n, w.most)
		}
		first := w.all[0]
		m, ok := p.Claim(g)
		if !ok || m != first {
			t.Error("not the oldest is handed out")
		}
		after(2 * time.Second)
		if n := len(w.all); n != 6 {
			t.Errorf("%d made: what was claimed is not replaced", n)
		}
		p.Update([]snapshot.Golden{g}, map[string]int{"shop": 1})
		after(time.Second)
		if n := w.there(g.Ref()); n != 2 || m.gone { // one is claimed
			t.Errorf("%d are left of a smaller pool", n)
		}
	})
}

func TestDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{limit: 4}
		p := w.pool(t, Options[*member]{Auto: true, Max: 8})
		g := golden(1, true)
		p.Update([]snapshot.Golden{g}, nil)
		after(time.Hour)
		if len(w.all) != 0 {
			t.Error("members of a golden that nobody clones")
		}
		wanted := func(n int) {
			t.Helper()
			after(10 * time.Second)
			if s := p.Stats()[0]; s.Wanted != n || s.Ready != n || s.Size != -1 {
				t.Errorf("want %d, got %+v", n, s)
			}
		}
		p.Claim(g)
		wanted(2)
		for range 3 { // one by one, slower than members are made
			p.Claim(g)
			after(3 * time.Second)
		}
		wanted(2)
		for range 3 {
			p.Claim(g)
		}
		wanted(6)
		for range 20 {
			p.Claim(g)
		}
		wanted(8)
		after(2 * time.Hour)
		wanted(0)
	})
}

func TestMemoryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{limit: 4}
		p := w.pool(t, Options[*member]{Auto: true, Memory: 100 << 20, Cost: func(context.Context, *member) int64 { return 20 << 20 }})
		g := golden(1, true)
		other := snapshot.Golden{Name: "other", Version: 1, Current: true}
		p.Update([]snapshot.Golden{g, other}, map[string]int{"shop": 4})
		for range 10 {
			p.Claim(other)
		}
		after(time.Minute)
		if a, b := w.there(g.Ref()), w.there(other.Ref()); a != 4 || b != 1 {
			t.Errorf("%d with a size, %d without, in memory for 5", a, b)
		}
	})
}

func TestDiedMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := w.pool(t, Options[*member]{})
		g := golden(1, true)
		p.Update([]snapshot.Golden{g}, map[string]int{"shop": 2})
		after(10 * time.Second)
		w.mu.Lock()
		w.all[0].dead = true
		w.mu.Unlock()
		second := w.all[1]
		if m, ok := p.Claim(g); !ok || m != second {
			t.Error("the one that lives was not handed out")
		}
		if _, ok := p.Claim(g); ok {
			t.Error("a dead one was handed out")
		}
		after(10 * time.Second)
		if !w.all[0].gone || w.there(g.Ref()) != 3 {
			t.Errorf("it was not replaced: %d", w.there(g.Ref()))
		}
	})
}

// A golden that fails is tried again less and less often.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{fail: errors.New("boom")}
		p := w.pool(t, Options[*member]{})
		tries := 0
		p.opts.Make = func(ctx context.Context, g snapshot.Golden) (*member, error) {
			tries++
			return w.make(ctx, g)
		}
		p.Update([]snapshot.Golden{golden(1, true)}, map[string]int{"shop": 1})
		after(10 * time.Minute)
		if tries < 10 || tries > 20 {
			t.Errorf("%d tries in ten minutes", tries)
		}
		w.mu.Lock()
		w.fail = nil
		w.mu.Unlock()
		after(2 * time.Minute)
		if len(w.all) != 1 {
			t.Errorf("%d members", len(w.all))
		}
	})
}

func TestPromote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{limit: 4}
		p := w.pool(t, Options[*member]{Auto: true})
		one, two := golden(1, true), golden(2, false)
		p.Update([]snapshot.Golden{one, two}, nil)
		for range 4 {
			p.Claim(one)
		}
		p.Claim(two)
		after(time.Minute)
		if a, b := w.there(one.Ref()), w.there(two.Ref()); a != 7 && a != 8 || b != 2 && b != 1 {
			t.Fatalf("%d and %d", a, b)
		}
		one.Current, two.Current = false, true
		p.Update([]snapshot.Golden{one, two}, nil)
		after(time.Minute)
		if a, b := w.there(one.Ref()), w.there(two.Ref()); a != 0 || b != 7 {
			t.Errorf("%d of the old version, %d of the new", a, b)
		}
		p.Update([]snapshot.Golden{one}, nil)
		after(time.Minute)
		if b := w.there(two.Ref()); b != 0 {
			t.Errorf("%d of a version that was removed", b)
		}
	})
}

func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{limit: 2}
		p := w.pool(t, Options[*member]{})
		g := golden(1, true)
		p.Update([]snapshot.Golden{g}, map[string]int{"shop": 4})
		after(1500 * time.Millisecond) // two are there, two half made
		resume, err := p.Suspend(t.Context(), g.Ref())
		if err != nil {
			t.Fatal(err)
		}
		if n := w.there(g.Ref()); n != 0 {
			t.Errorf("%d are left", n)
		}
		after(time.Minute)
		if _, ok := p.Claim(g); ok || w.there(g.Ref()) != 0 {
			t.Error("members of a suspended golden")
		}
		resume()
		after(time.Minute)
		if n := w.there(g.Ref()); n != 4 {
			t.Errorf("%d after it went on", n)
		}
		p.Claim(g)
		after(2 * rest) // its successor is being made
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := p.Suspend(short, g.Ref()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		after(time.Minute)
		if n := w.there(g.Ref()); n != 5 {
			t.Errorf("%d after a suspension that failed", n)
		}
	})
}

func TestAdopt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := w.pool(t, Options[*member]{Auto: true})
		g := golden(1, true)
		for range 3 {
			m := &member{golden: g.Ref()}
			w.all = append(w.all, m)
			p.Adopt(g, m)
		}
		orphan := &member{golden: golden(7, false).Ref()}
		p.Adopt(golden(7, false), orphan)
		p.Update([]snapshot.Golden{g}, nil)
		after(10 * time.Second)
		if len(w.all) != 3 || w.there(g.Ref()) != 3 || !orphan.gone {
			t.Errorf("%d made, %d there, orphan %+v", len(w.all), w.there(g.Ref()), orphan)
		}
		p.Close()
		p.Close()
		if w.there(g.Ref()) != 3 {
			t.Error("Close took members away")
		}
	})
}

// Each member goes to one claimer.
func TestClaimOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{limit: 4}
		p := w.pool(t, Options[*member]{})
		g := golden(1, true)
		p.Update([]snapshot.Golden{g}, map[string]int{"shop": 20})
		var mu sync.Mutex
		var got []*member
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					if m, ok := p.Claim(g); ok {
						mu.Lock()
						got = append(got, m)
						mu.Unlock()
					} else {
						<-time.After(makeTime / 3)
					}
				}
			})
		}
		wg.Wait()
		if len(got) < 10 {
			t.Errorf("%d claims", len(got))
		}
		for i, m := range got {
			if m.gone || slices.Contains(got[:i], m) {
				t.Error("handed out twice, or discarded")
			}
		}
	})
}

func TestQueueIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1)
		var mu sync.Mutex
		var order, places []int
		for i := range 6 {
			go func() {
				leave, _, err := q.Enter(t.Context(), "me", Waiting{Moved: func(place int, _ time.Duration) {
					mu.Lock()
					defer mu.Unlock()
					if i == 5 {
						places = append(places, place)
					}
				}})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				<-time.After(time.Second)
				leave()
				leave() // once counts
			}()
			synctest.Wait()
		}
		if in, waiting := q.Busy("other"); in != 1 || waiting != 5 {
			t.Errorf("%d in, %d waiting", in, waiting)
		}
		after(time.Minute)
		if !slices.Equal(order, []int{0, 1, 2, 3, 4, 5}) || !slices.Equal(places, []int{5, 4, 3, 2, 1}) {
			t.Errorf("order %v, places of the last %v", order, places)
		}
		if in, waiting := q.Busy("other"); in != 0 || waiting != 0 || q.Estimate(4) != 4*time.Second {
			t.Errorf("%d in, %d waiting in the end, estimate %s", in, waiting, q.Estimate(4))
		}
	})
}

// TestQueueGuests: whoever has none in passes those who have all slots; there are never more than slots and guests.
func TestQueueGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewGuestQueue(2, 1)
		enter := func(who string) (leave func()) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			leave, _, err := q.Enter(ctx, who, Waiting{})
			if err != nil {
				return nil
			}
			return leave
		}
		one, two := enter("alice"), enter("alice")
		if one == nil || two == nil || enter("alice") != nil {
			t.Fatal("alice has not exactly two slots")
		}
		guest := enter("bob")
		if guest == nil {
			t.Fatal("bob waits for alice")
		}
		if enter("bob") != nil || enter("carol") != nil {
			t.Error("there are more than two slots and a guest")
		}
		one()
		if enter("alice") != nil || enter("bob") != nil {
			t.Error("there are more than two slots, and no guest")
		}
		carol := enter("carol")
		if carol == nil {
			t.Error("carol waits, and has none in")
		}
		for _, leave := range []func(){two, guest, carol} {
			leave()
		}
		if in, waiting := q.Busy(""); in != 0 || waiting != 0 || q.held != 0 {
			t.Errorf("%d in, %d waiting, %d held", in, waiting, q.held)
		}
	})
}

func TestQueueTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1)
		leave, _, err := q.Enter(t.Context(), "a", Waiting{})
		if err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, place, err := q.Enter(short, "b", Waiting{}); place != 1 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("place %d, %v", place, err)
		}
		leave()
		leave, _, err = q.Enter(t.Context(), "b", Waiting{})
		if err != nil {
			t.Fatal(err)
		}
		leave()
	})
}

// enterAll enters n times at once and takes a second in each turn.
func enterAll(t *testing.T, q *Queue, who string, n int, turn func(who string)) {
	for range n {
		go func() {
			leave, _, err := q.Enter(t.Context(), who, Waiting{})
			if err != nil {
				t.Error(err)
				return
			}
			turn(who)
			<-time.After(time.Second)
			leave()
		}()
	}
	synctest.Wait()
}

// Somebody who wants one does not wait for somebody who wants a hundred, and
// nobody who comes again and again keeps others out.
func TestQueueIsFairBetweenParties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(2)
		var mu sync.Mutex
		turns := map[string]int{}
		began := time.Now()
		when := map[string]time.Duration{}
		turn := func(who string) {
			mu.Lock()
			defer mu.Unlock()
			turns[who]++
			if when[who] == 0 {
				when[who] = time.Since(began)
			}
		}
		enterAll(t, q, "many", 100, turn)
		places := make(chan int, 10)
		go func() {
			leave, _, err := q.Enter(t.Context(), "one", Waiting{Moved: func(place int, _ time.Duration) { places <- place }})
			if err != nil {
				t.Error(err)
				return
			}
			turn("one")
			leave()
		}()
		synctest.Wait()
		for _, who := range []string{"again", "and again"} {
			go func() {
				for range 10 {
					leave, _, err := q.Enter(t.Context(), who, Waiting{})
					if err != nil {
						t.Error(err)
						return
					}
					turn(who)
					<-time.After(time.Second)
					leave()
				}
			}()
		}
		after(10*time.Second + time.Millisecond)
		mu.Lock()
		if place := <-places; place != 1 || when["one"] != time.Second {
			t.Errorf("one that wants one: place %d, turn after %s", place, when["one"])
		}
		for _, who := range []string{"many", "again", "and again"} {
			if turns[who] < 5 { // of 22 turns; who comes back has to wait at least one
				t.Errorf("turns after ten seconds: %v", turns)
				break
			}
		}
		mu.Unlock()
		after(time.Hour)
		if turns["many"] != 100 || turns["again"] != 10 || len(q.parties) != 0 || q.held != 0 {
			t.Errorf("in the end: %v, %d parties, %d held", turns, len(q.parties), q.held)
		}
	})
}

// What ends a wait in another way leaves no trace.
func TestQueueInstead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue(1)
		leave, _, err := q.Enter(t.Context(), "a", Waiting{})
		if err != nil {
			t.Fatal(err)
		}
		instead := make(chan struct{})
		go func() {
			<-time.After(time.Second)
			close(instead)
		}()
		none, place, err := q.Enter(t.Context(), "b", Waiting{Instead: instead})
		if none != nil || place != 0 || err != nil {
			t.Errorf("place %d, %v", place, err)
		}
		leave()
		if len(q.parties) != 0 || q.held != 0 {
			t.Errorf("%d parties, %d held", len(q.parties), q.held)
		}
	})
}

// A member goes to who has waited longest, not to who comes when it is there;
// none is made for those who wait: they make their own.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{}
		p := w.pool(t, Options[*member]{})
		g := golden(1, true)
		p.Update([]snapshot.Golden{g}, map[string]int{"shop": 2})
		synctest.Wait() // one is being made
		_, ok, first := p.ClaimOrAwait(g)
		_, also, second := p.ClaimOrAwait(g)
		if ok || also {
			t.Fatal("a member of an empty pool")
		}
		after(time.Minute)
		select {
		case <-first.Came():
		default:
			t.Error("the first was not given the one that was made")
		}
		if m, ok := first.Stop(); !ok || m != w.all[0] || len(w.all) != 1 {
			t.Errorf("%v, %d made", m, len(w.all))
		}
		if _, ok := second.Stop(); ok {
			t.Error("the second was given one too")
		}
		after(time.Minute)
		if s := p.Stats()[0]; s.Ready != 2 || s.Hits != 1 || s.Misses != 1 {
			t.Errorf("when nobody waits: %+v", s)
		}
	})
}
