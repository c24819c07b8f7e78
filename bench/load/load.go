// Package load makes requests at times that were chosen beforehand, however
// long the answers take (an open loop), and says how late each answer was.
//
// A caller who waits for an answer before he asks again (a closed loop) asks less
// while a server stalls, and so hides the stall: in an open loop everybody who
// would have come meanwhile has waited, and is counted.
package load

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Every returns n times that are evenly spread, rate in a second.
func Every(rate float64, n int) []time.Duration {
	at := make([]time.Duration, n)
	for i := range at {
		at[i] = seconds(float64(i) / rate)
	}
	return at
}

// Poisson returns n times at which callers who know nothing of each other come,
// rate in a second on average.
func Poisson(rate float64, n int, r *rand.Rand) []time.Duration {
	at, now := make([]time.Duration, n), 0.0
	for i := range at {
		now += r.ExpFloat64() / rate
		at[i] = seconds(now)
	}
	return at
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// Call is one request. i counts from 0; intended is when it was to be made:
// what the caller measures begins there, not when the call was really made.
type Call func(ctx context.Context, i int, intended time.Time)

// Open makes a call at each of the times after now, each in a goroutine of its
// own, and returns when all have ended. If ctx ends, the rest is not made.
// Times that are not sorted are made as soon as those before them.
func Open(ctx context.Context, at []time.Duration, call Call) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, d := range at {
		intended := begun.Add(d)
		timer.Reset(time.Until(intended))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		calls.Go(func() { call(ctx, i, intended) })
	}
	return nil
}
