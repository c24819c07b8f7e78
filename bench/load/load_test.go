package load_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ctrsnap/ctrsnap/bench/load"
	"github.com/ctrsnap/ctrsnap/bench/recorder"
)

// server answers one request after the other, a millisecond each, and stalls
// once for a second.
type server struct {
	one     chan struct{} // holds a token; a mutex would stop the clock of synctest
	stallAt time.Time
	stalled bool
}

func newServer() *server {
	s := &server{one: make(chan struct{}, 1), stallAt: time.Now().Add(5 * time.Second)}
	s.one <- struct{}{}
	return s
}

func (s *server) answer() {
	<-s.one
	defer func() { s.one <- struct{}{} }()
	<-time.After(time.Millisecond)
	if !s.stalled && time.Now().After(s.stallAt) {
		s.stalled = true
		<-time.After(time.Second)
	}
}

// The stall is a tenth of the run: everybody who comes meanwhile waits for its
// end, so that p99 is nearly all of it.
func TestStallShows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		open := recorder.New("open", "", "ms")
		err := load.Open(t.Context(), load.Every(100, 1000), func(_ context.Context, _ int, intended time.Time) {
			s.answer()
			open.AddDuration(time.Since(intended))
		})
		if err != nil {
			t.Fatal(err)
		}
		got := open.Series()
		if got.N != 1000 || got.P50 > 2 || got.P99 < 850 || got.P99 > 1001 || got.P90 > 200 {
			t.Errorf("got %+v", got)
		}
		// The same in a closed loop: one of all values is long, p99 is not.
		s = newServer()
		closed := recorder.New("closed", "", "ms")
		for range 1000 {
			begun := time.Now()
			s.answer()
			closed.AddDuration(time.Since(begun))
			<-time.After(9 * time.Millisecond)
		}
		if got := closed.Series(); got.P99 > 2 || got.Max < 1000 {
			t.Errorf("a closed loop: got %+v", got)
		}
	})
}

// What the generator itself is late counts: a caller was to come then.
func TestLatencyIsFromTheIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		at := []time.Duration{0, time.Second, time.Second / 2} // the third is late by half a second
		var mu sync.Mutex
		late := map[int]time.Duration{}
		err := load.Open(t.Context(), at, func(_ context.Context, i int, intended time.Time) {
			mu.Lock()
			defer mu.Unlock()
			if intended.Sub(begun) != at[i] {
				t.Errorf("%d intended at %v", i, intended.Sub(begun))
			}
			late[i] = time.Since(intended)
		})
		if err != nil || late[0] != 0 || late[1] != 0 || late[2] != time.Second/2 {
			t.Errorf("late %v, %v", late, err)
		}
	})
}

func TestOpenEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 995*time.Millisecond)
		defer cancel()
		var ended sync.WaitGroup
		ended.Add(100)
		err := load.Open(ctx, load.Every(100, 1000), func(context.Context, int, time.Time) { ended.Done() })
		ended.Wait() // 101 would panic
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// Gaps of a Poisson process are exponential: mean and deviation are 1/rate.
func TestPoisson(t *testing.T) {
	const n, rate = 200_000, 50.0
	at := load.Poisson(rate, n, rand.New(rand.NewPCG(5, 6)))
	var sum, squares float64
	for i := 1; i < n; i++ {
		gap := (at[i] - at[i-1]).Seconds()
		if gap < 0 {
			t.Fatal("times are not sorted")
		}
		sum, squares = sum+gap, squares+gap*gap
	}
	mean := sum / (n - 1)
	deviation := math.Sqrt(squares/(n-1) - mean*mean)
	if math.Abs(mean*rate-1) > 0.01 || math.Abs(deviation*rate-1) > 0.01 {
		t.Errorf("mean %g, deviation %g, want %g", mean, deviation, 1/rate)
	}
}
